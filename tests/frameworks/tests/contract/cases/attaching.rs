//! What duplicates are given of a response that is on its way.

use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::{Framework, Setup, serve};
use idem_frameworks::{is_replay, post, problem};

async fn next(response: &mut http::Response<Incoming>) -> bytes::Bytes {
    let frame = response.frame().await.unwrap().unwrap();
    frame.into_data().unwrap()
}

fn is_marked(response: &http::Response<Incoming>) -> bool {
    let mark = response.headers().get("idempotent-replayed");
    mark.is_some_and(|mark| mark == "true")
}

pub(crate) async fn who_attaches_is_given_what_has_been_sent_and_the_rest_as_it_comes<
    F: Framework,
>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let slow = || post("/attaching", "a", "slow stream");
    let mut first = server.exchange(slow()).await;
    assert!(!is_marked(&first));
    assert_eq!(next(&mut first).await, "first ");
    works.started().await;
    let mut attached = server.exchange(slow()).await;
    assert_eq!(attached.status(), first.status());
    assert!(is_marked(&attached));
    assert_eq!(next(&mut attached).await, "first ");
    works.let_go();
    for response in [first, attached] {
        let rest = response.collect().await.unwrap().to_bytes();
        assert_eq!(rest, "second of attempt 1");
    }
    let retry = server.send(slow()).await;
    assert!(is_replay(&retry));
    assert_eq!(retry.body(), "first second of attempt 1");
    assert_eq!(works.executed(), 1);
}

pub(crate) async fn who_attaches_outlives_the_first_client<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let slow = || post("/attaching", "a", "slow stream");
    let mut first = server.exchange(slow()).await;
    next(&mut first).await;
    works.started().await;
    let mut attached = server.exchange(slow()).await;
    assert_eq!(next(&mut attached).await, "first ");
    drop(first);
    works.let_go();
    let rest = attached.collect().await.unwrap().to_bytes();
    assert_eq!(rest, "second of attempt 1");
    assert_eq!(works.executed(), 1);
}

pub(crate) async fn another_request_does_not_attach<F: Framework>() {
    let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
    let mut first = server
        .exchange(post("/attaching", "a", "slow stream"))
        .await;
    next(&mut first).await;
    works.started().await;
    let other = server.send(post("/attaching", "a", "streamed")).await;
    assert_eq!(
        (other.status(), problem(&other).as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, "mismatch")
    );
    works.let_go();
    first.collect().await.unwrap();
    assert_eq!(works.executed(), 1);
}

pub(crate) async fn who_is_attached_to_what_breaks_off_is_cut_off<F: Framework>() {
    for kind in ["broken stream", "slow long stream"] {
        let Setup { server, works, .. } = serve::<F>(|engine| engine).await;
        let request = || post("/attaching", "a", kind);
        let mut first = server.exchange(request()).await;
        next(&mut first).await;
        works.started().await;
        let mut attached = server.exchange(request()).await;
        assert_eq!(next(&mut attached).await, "first ");
        works.let_go();
        let first = first.collect().await;
        if kind == "slow long stream" {
            assert_eq!(first.unwrap().to_bytes().len(), 3 * crate::app::MIB);
        }
        let rest = attached.collect().await;
        assert!(rest.is_err(), "{kind}: {rest:?}");
        let retry = server.send(request()).await;
        assert_eq!(
            (retry.status(), problem(&retry).as_str()),
            (StatusCode::CONFLICT, "not-replayable")
        );
        assert_eq!(works.executed(), 1);
    }
}
