//! PostgreSQL wire protocol 3: frames, start-up, SCRAM, SQLSTATE. Pure.
