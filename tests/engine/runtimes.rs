//! What a call needs of the runtime that it is made in.

use idem::Error;
use tokio::runtime::Builder;

use crate::bench::{attempt_number, faulty, must_not_run, operation, request};

#[test]
fn a_runtime_without_timers_is_an_error_that_says_so() {
    let operation = operation(&faulty());
    let without = Builder::new_current_thread().build().unwrap();
    for _ in 0..2 {
        let refused = without.block_on(must_not_run(&operation, "k", request()));
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::NoTimers), "{error:?}");
        assert!(error.to_string().contains("enable_time"));
    }
    // The same thread may run another.
    let with = Builder::new_current_thread().enable_time().build().unwrap();
    assert_eq!(with.block_on(attempt_number(&operation, "k")).unwrap(), 1);
    let refused = without.block_on(must_not_run(&operation, "k", request()));
    assert!(matches!(refused, Err(Error::NoTimers)));
}
