//! A table of DynamoDB: created, examined, and a stuck record in it resolved.

use idem::EngineBuilder;
use idem::stores::dynamodb::DynamoDbStore;
use idem_tests::dynamodb::{CREDENTIALS, url_at};
use idem_tests::{DynamoDb, Emulator};
use serde_json::Value;

use crate::changes::{crash, run};
use crate::tool::Tool;

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_created_and_what_is_stuck_in_it_is_resolved() {
    // It says so where there is none.
    let Some(emulator) = Emulator::best() else {
        return;
    };
    let server = DynamoDb::start_alone(emulator).await;
    let tool = Tool::over(url_at(server.port(), "made"));
    let idem = |args: &[&str]| -> (i32, Vec<Value>) {
        let mut command = tool.command(&[args, &["--json"]].concat());
        let output = command.envs(CREDENTIALS).output().unwrap();
        let said = crate::tool::said(output);
        let objects = said
            .out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        (said.status, objects.collect())
    };
    assert_eq!(idem(&["list"]).0, 4, "there is no table");
    let (status, created) = idem(&["create-table", "--index", "--reason", "ticket 7"]);
    assert_eq!(status, 0, "{created:?}");
    let audited = tool.audited();
    assert_eq!(audited[0]["command"], "create-table");
    assert_eq!(audited[1]["result"], "done");
    let (status, examined) = idem(&["doctor"]);
    assert_eq!(status, 0, "{examined:?}");

    let store = DynamoDbStore::with_client(&server.client(), "made").unwrap();
    let engine = EngineBuilder::new(std::sync::Arc::new(store.connect().await.unwrap())).build();
    crash(&engine).await;
    let (status, stuck) = idem(&["stuck"]);
    assert_eq!((status, stuck.len()), (0, 1), "{stuck:?}");
    let id = stuck[0]["record"].as_str().unwrap();
    assert_eq!(stuck[0]["operation"], "refunds");
    let value = tool.write("value.json", "42");
    let (status, resolved) = idem(&["resolve", id, "--value", &value, "--yes"]);
    assert_eq!(status, 0, "{resolved:?}");
    assert_eq!(run(&engine, 1).await.unwrap(), 42);
}
