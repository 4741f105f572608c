//! What the stores of SQL servers share: connections, priorities, and deleting expired records. Knows no
//! statement, and nothing of one server.

pub(crate) mod application_pool;
pub(crate) mod borrowed;
pub(crate) mod conflicts;
pub(crate) mod errors;
pub(crate) mod gate;
pub(crate) mod goes_on;
pub(crate) mod pool;
pub(crate) mod sweeping;
