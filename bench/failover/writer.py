"""A client that writes one row after the other and remembers when each was acknowledged."""

import threading
import time

import psycopg


class Writer(threading.Thread):
    """Inserts numbers of its own range in order; connects again after an error, which it counts."""

    def __init__(self, uri, name):
        super().__init__(daemon=True)
        self.uri, self.name = uri, name
        self.acknowledged = []
        self.unknown = []
        self.errors = []
        self.going = True

    def run(self):
        number = 0
        connection = None
        while self.going:
            try:
                if connection is None:
                    connection = psycopg.connect(self.uri, autocommit=True)
                began = time.monotonic()
                connection.execute("INSERT INTO ledger VALUES (%s, %s)", (self.name, number))
                self.acknowledged.append((number, began, time.monotonic()))
            except psycopg.Error as error:
                self.errors.append((time.monotonic(), str(error).strip()))
                self.unknown.append(number)
                if connection is None or connection.broken or connection.closed:
                    connection = None
            number += 1

    def stop(self):
        self.going = False
        self.join()

    def longest_between(self, begin, end):
        """The longest that a statement took that was under way in this time, in seconds."""
        return max((done - began for _, began, done in self.acknowledged if done >= begin and began <= end), default=0)

    def first_after(self, moment):
        """When the first statement was acknowledged that ended after this moment."""
        return next((done for _, _, done in self.acknowledged if done > moment), None)
