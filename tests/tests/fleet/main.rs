//! The fleet server's parts against the real things: PostgreSQL, HTTP clients, simulated gateways.
//!
//! Apart from the gateway's tests so that these link no server. Each test has its own folders, databases and ports.

mod store;
