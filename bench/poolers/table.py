"""Rounds as tables: medians over the rounds, ratios to pgbouncer's run of the same round."""

import math
import statistics

REFERENCE = "pgbouncer"
# More than this of the machine taken by something else says that a row is about that, too.
OTHERS_PERCENT_MAX = 15
COLUMNS = ("peer", "pool", "tps", "ratio", "mean ms", "p99 ms", "CPU s", "ratio", "peak MB", "PSS MB", "others")
WIDTHS = (12, 17, 9, 7, 9, 9, 8, 7, 9, 8, 8)


def cells(rows):
    """(mode, clients) in the order measured."""
    return list(dict.fromkeys((row["mode"], row["clients"]) for row in rows))


def peers_of(rows):
    return list(dict.fromkeys(row["peer"] for row in rows))


def ratios(rows, name, key):
    """Of a peer's value to the reference's, for every round and cell that has both."""
    reference = {(row["round"], row["mode"], row["clients"]): row for row in rows if row["peer"] == REFERENCE}
    found = []
    for row in rows:
        beside = reference.get((row["round"], row["mode"], row["clients"]), {})
        if row["peer"] == name and row.get(key) and beside.get(key):
            found.append(row[key] / beside[key])
    return found


def median(values):
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def number(value, digits):
    return "-" if value is None else f"{value:,.{digits}f}"


def line(words):
    return "".join(word.ljust(width) if at < 2 else word.rjust(width)
                   for at, (word, width) in enumerate(zip(words, WIDTHS))).rstrip()  # fmt: skip


def print_tables(rows):
    if not rows:
        return
    for mode, clients in cells(rows):
        cell = [row for row in rows if (row["mode"], row["clients"]) == (mode, clients)]
        print(f"\n{mode}, {clients} clients")
        print(line(COLUMNS))
        for name in peers_of(cell):
            print(peer_line(cell, name))
    print_summary(rows)


def peer_line(cell, name):
    own = [row for row in cell if row["peer"] == name]
    good = [row for row in own if not row["error"]]
    failed = len(own) - len(good)
    if not good:
        return f"{name:{WIDTHS[0]}}failed in all {failed} rounds: {own[-1]['error']}"

    def middle(key, digits):
        return number(median(row[key] for row in good), digits)

    others = median(row["others_percent"] for row in good)
    words = [name, good[0]["pool_mode"], middle("tps", 0), number(median(ratios(cell, name, "tps")), 2),
             middle("mean_ms", 3), middle("p99_ms", 2), middle("cpu_s", 2), number(median(ratios(cell, name, "cpu_s")), 2),
             middle("peak_mb", 1), middle("pss_mb", 1),
             f"{others:.0f} %" + ("*" if others > OTHERS_PERCENT_MAX else " ")]  # fmt: skip
    note = f"  failed in {failed} of {len(own)} rounds" if failed else ""
    return line(words) + note


def print_summary(rows):
    """One line a peer: how it compares with the reference over all cells."""
    names = [name for name in peers_of(rows) if name != REFERENCE]
    summary = []
    for name in names:
        words = []
        for key in ("tps", "cpu_s"):
            medians = [
                median(ratios([row for row in rows if (row["mode"], row["clients"]) == cell], name, key))
                for cell in cells(rows)
            ]
            known = [value for value in medians if value]
            words.append(f"{math.exp(statistics.fmean(map(math.log, known))):.2f}" if known else "-")
        if any(word != "-" for word in words):
            summary.append(f"{name:{WIDTHS[0]}}{words[0]:>8}{words[1]:>8}")
    if summary:
        print(f"\nbeside {REFERENCE}, geometric mean over the cells")
        print(f"{'':{WIDTHS[0]}}{'tps':>8}{'CPU':>8}")
        print("\n".join(summary))
