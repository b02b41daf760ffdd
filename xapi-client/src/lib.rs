//! xapi-client
