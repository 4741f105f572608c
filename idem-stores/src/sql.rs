//! What the stores of SQL servers share: connections, priorities, and deleting expired records. Knows no
//! statement, and nothing of one server.

pub(crate) mod application_pool;
pub(crate) mod borrowed;
pub(crate) mod conflicts;
pub(crate) mod ended_sessions;
pub(crate) mod errors;
pub(crate) mod gate;
pub(crate) mod goes_on;
pub(crate) mod pool;
pub(crate) mod pool_states;
pub(crate) mod sweeping;
pub(crate) mod tls_files;
