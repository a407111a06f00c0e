//! How far a server is and who waits for it. Pure.
