//! What bodies may do: return early, move and change their arguments, nest closures and blocks.

use idem::{Error, idempotent};
use serde::{Deserialize, Serialize};

use crate::{Desk, assert_runs_once};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Failed {
    Parse,
    Refused(String),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<std::num::ParseIntError> for Failed {
    fn from(_: std::num::ParseIntError) -> Self {
        Self::Parse
    }
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn leaves(desk: &Desk, id: &str, count: &str) -> Result<u32, Failed> {
    let run = desk.run();
    if id == "early" {
        return Ok(1000);
    }
    let count: u32 = count.parse()?;
    for n in 0.. {
        if n == count {
            return Ok(run);
        }
    }
    unreachable!("the loop ends by a return")
}

#[tokio::test]
async fn an_early_return_is_the_functions_value() {
    let desk = Desk::new();
    assert_eq!(assert_runs_once!(desk, leaves(&desk, "early", "x")), 1000);
    assert_eq!(assert_runs_once!(desk, leaves(&desk, "loop", "3")), 2);
}

#[tokio::test]
async fn a_question_mark_is_the_functions_error() {
    let desk = Desk::new();
    assert_eq!(leaves(&desk, "k", "x").await, Err(Failed::Parse));
    assert_eq!(leaves(&desk, "k", "x").await, Err(Failed::Parse));
    assert_eq!(desk.runs(), 2, "an error frees the key");
}

#[allow(clippy::needless_return, reason = "returns are what is tested")]
#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn nests(desk: &Desk, id: &str) -> Result<Vec<u32>, Failed> {
    assert!(!id.is_empty());
    desk.run();
    let in_closure = |n: u32| {
        if n > 1 {
            return n * 10;
        }
        n
    };
    let in_block: Result<u32, std::num::ParseIntError> = async {
        let n: u32 = "7".parse()?;
        if n == 7 {
            return Ok(70);
        }
        Ok(n)
    }
    .await;
    let in_async_closure = async |n: u32| -> Option<u32> {
        let n = n.checked_sub(5)?;
        return Some(n);
    };
    fn in_function(n: u32) -> u32 {
        return n + 1;
    }
    Ok(vec![
        in_closure(1),
        in_closure(2),
        in_block?,
        in_async_closure(9).await.unwrap_or(0),
        in_async_closure(1).await.unwrap_or(0),
        in_function(1),
    ])
}

#[tokio::test]
async fn a_return_of_a_nested_closure_or_block_stays_its_own() {
    let desk = Desk::new();
    let once = assert_runs_once!(desk, nests(&desk, "k"));
    assert_eq!(once, [1, 20, 70, 4, 0, 2]);
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn consumes(
    desk: Desk,
    id: String,
    mut lines: Vec<u32>,
    total: &mut u32,
) -> Result<(String, Vec<u32>), Error> {
    desk.run();
    lines.push(99);
    *total += lines.iter().sum::<u32>();
    let id = id.into_bytes();
    drop(desk);
    tokio::task::yield_now().await;
    Ok((String::from_utf8_lossy(&id).into_owned(), lines))
}

#[tokio::test]
async fn arguments_are_fingerprinted_before_the_body_moves_and_changes_them() {
    let desk = Desk::new();
    let (mut first, mut second) = (1, 1);
    let once = consumes(desk.clone(), "k".to_owned(), vec![1], &mut first).await;
    assert_eq!(once.unwrap(), ("k".to_owned(), vec![1, 99]));
    assert_eq!(first, 101);

    let again = consumes(desk.clone(), "k".to_owned(), vec![1], &mut second).await;
    assert_eq!(again.unwrap(), ("k".to_owned(), vec![1, 99]));
    assert_eq!((desk.runs(), second), (1, 1), "the body did not run");
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn diverges(desk: &Desk, id: u8) -> Result<u32, Failed> {
    assert_eq!(id, 1);
    desk.run();
    Err(Failed::Parse)?
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn ends_in_return(desk: &Desk, id: u8) -> Result<u32, Failed> {
    assert_eq!(id, 1);
    return Ok(desk.run());
}

#[tokio::test]
async fn a_body_may_end_without_a_tail_expression() {
    let desk = Desk::new();
    assert_eq!(diverges(&desk, 1).await, Err(Failed::Parse));
    assert_eq!(assert_runs_once!(desk, ends_in_return(&desk, 1)), 2);
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn shadows(desk: &Desk, id: u8) -> Result<u8, Error> {
    desk.run();
    let id = id + 1;
    let key = id + 1;
    {
        let desk = key;
        assert_eq!(desk, 3);
    }
    macro_rules! id {
        () => {
            key
        };
    }
    Ok(id!())
}

#[tokio::test]
async fn a_body_may_shadow_its_arguments() {
    let desk = Desk::new();
    assert_eq!(assert_runs_once!(desk, shadows(&desk, 1)), 3);
}

#[idempotent(key = depth, ttl = "1h", skip(desk), engine = desk.engine)]
async fn recurses(desk: &Desk, depth: u32) -> Result<u32, Error> {
    desk.run();
    match depth {
        0 => Ok(0),
        _ => Ok(1 + Box::pin(recurses(desk, depth - 1)).await?),
    }
}

#[tokio::test]
async fn a_body_may_call_its_own_function_under_another_key() {
    let desk = Desk::new();
    assert_eq!(recurses(&desk, 3).await.unwrap(), 3);
    assert_eq!(recurses(&desk, 3).await.unwrap(), 3);
    assert_eq!(desk.runs(), 4);
    assert!(matches!(
        recurses_into_itself(&desk, 1).await,
        Err(Error::InFlight { .. })
    ));
}

#[idempotent(key = id, ttl = "1h", skip(desk), engine = desk.engine)]
async fn recurses_into_itself(desk: &Desk, id: u32) -> Result<u32, Error> {
    desk.run();
    Box::pin(recurses_into_itself(desk, id)).await
}
