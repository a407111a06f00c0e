//! What a statement does: classification with the parser of PostgreSQL. Pure.
