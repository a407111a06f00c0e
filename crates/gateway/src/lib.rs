//! Sockets, TLS, authentication, links: the data plane of a region
