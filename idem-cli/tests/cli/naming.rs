//! What the words of a command line name, against records that the attribute has written.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::post;
use idem::{Engine, Error, Key, KeyError, KeyPart, idempotent};
use idem_cli::naming::{Composite, Name};
use tower::ServiceExt;
use uuid::Uuid;

use crate::tool::Tool;

/// A type of one's own, of one part.
#[derive(Clone)]
struct Iban(String);

impl KeyPart for Iban {
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
        self.0.append_to(key)
    }
}

/// Of any number of parts.
#[derive(Clone)]
struct Folder(Vec<String>);

impl KeyPart for Folder {
    fn append_to(&self, key: &mut Key) -> Result<(), KeyError> {
        self.0.iter().try_for_each(|part| part.append_to(key))
    }
}

macro_rules! operations {
    ($($name:ident $text:literal ($key:ident: $of:ty $(, $scope:ident: $scope_of:ty)?);)*) => {$(
        #[idempotent(
            key = $key, $(scope = $scope,)? ttl = "1h", name = $text, engine = engine,
            fingerprint("same")
        )]
        async fn $name(engine: Engine, $key: $of $(, $scope: $scope_of)?) -> Result<u8, Error> {
            Ok(7)
        }
    )*};
}

operations! {
    of_text "of_text" (key: &str);
    of_owned_text "of_owned_text" (key: Option<String>);
    of_number "of_number" (key: u64);
    of_negative "of_negative" (key: i32);
    of_large "of_large" (key: u128);
    of_uuid "of_uuid" (key: Uuid);
    of_bytes "of_bytes" (key: Vec<u8>);
    of_array "of_array" (key: [u8; 3]);
    of_shared "of_shared" (key: Arc<str>);
    of_result "of_result" (key: Result<u8, ()>);
    of_pair "of_pair" (key: (&'static str, u64));
    of_nested "of_nested" (key: ((&'static str, Uuid), Vec<u8>));
    of_six "of_six" (key: (u8, i64, &'static str, Uuid, [u8; 2], Option<u16>));
    of_iban "of_iban" (key: Iban);
    of_iban_in_pair "of_iban_in_pair" (key: (Iban, u8));
    of_folder "of_folder" (key: Folder);
    of_folder_in_pair "of_folder_in_pair" (key: (Folder, u8));
    in_text "in_text" (key: &str, scope: &str);
    in_number "in_number" (key: &str, scope: i64);
    in_uuid "in_uuid" (key: &str, scope: Option<Uuid>);
    in_nothing "in_nothing" (key: &str, scope: Option<Uuid>);
    in_pair "in_pair" (key: (u8, u8), scope: (u64, Uuid));
    in_folder "in_folder" (key: &str, scope: (Folder, u8));
}

#[idem::axum::idempotent(key = header("Idempotency-Key"), ttl = "1h", name = "of_header")]
async fn of_header() -> &'static str {
    "done"
}

const UUID: &str = "8e03978e-40d5-43e8-bc93-6894a57f9324";

async fn write_records(engine: &Engine) -> Result<(), Error> {
    let of = || engine.clone();
    let uuid: Uuid = UUID.parse().unwrap();
    let folder = || Folder(vec!["a".into(), "b".into()]);
    let iban = || Iban("DE02".into());
    of_text(of(), "order 42").await?;
    of_owned_text(of(), Some("-x".into())).await?;
    of_number(of(), 42).await?;
    of_negative(of(), -42).await?;
    of_large(of(), u128::MAX).await?;
    of_uuid(of(), uuid).await?;
    of_bytes(of(), vec![0, 255]).await?;
    of_array(of(), [1, 2, 3]).await?;
    of_shared(of(), "größe".into()).await?;
    of_result(of(), Ok(9)).await?;
    of_pair(of(), ("a", 42)).await?;
    of_nested(of(), (("a", uuid), vec![7])).await?;
    of_six(of(), (1, -2, "c", uuid, [5, 6], Some(7))).await?;
    of_iban(of(), iban()).await?;
    of_iban_in_pair(of(), (iban(), 1)).await?;
    of_folder(of(), folder()).await?;
    of_folder_in_pair(of(), (folder(), 1)).await?;
    in_text(of(), "k", "acme").await?;
    in_number(of(), "k", -1).await?;
    in_uuid(of(), "k", Some(uuid)).await?;
    in_nothing(of(), "k", None).await?;
    in_pair(of(), (1, 2), (3, uuid)).await?;
    in_folder(of(), "k", (folder(), 1)).await?;
    Ok(())
}

const LARGE: &str = "340282366920938463463374607431768211455";

/// An operation, and how its record is named.
const NAMES: &[(&str, &[&str])] = &[
    ("of_text", &["--key", "order 42"]),
    ("of_owned_text", &["--key", "-x"]),
    ("of_number", &["--key", "42"]),
    ("of_number", &["--key-json", "42"]),
    ("of_negative", &["--key", "-42"]),
    ("of_large", &["--key", LARGE]),
    ("of_uuid", &["--key", UUID]),
    ("of_bytes", &["--key-json", r#"{"hex": "00ff"}"#]),
    ("of_array", &["--key-json", r#"{"hex": "010203"}"#]),
    ("of_shared", &["--key", "größe"]),
    ("of_result", &["--key", "9"]),
    ("of_pair", &["--key", "a", "--key", "42"]),
    ("of_pair", &["--key-json", r#"["a", 42]"#]),
    (
        "of_nested",
        &[
            "--key-json",
            r#"["a", "8e03978e-40d5-43e8-bc93-6894a57f9324", {"hex": "07"}]"#,
        ],
    ),
    (
        "of_six",
        &[
            "--key-json",
            r#"[1, -2, "c", "8e03978e-40d5-43e8-bc93-6894a57f9324", {"hex": "0506"}, 7]"#,
        ],
    ),
    ("of_iban", &["--key", "DE02"]),
    ("of_iban_in_pair", &["--key", "DE02", "--key", "1"]),
    ("of_folder", &["--key", "a", "--key", "b"]),
    ("of_folder_in_pair", &["--key-json", r#"[["a", "b"], 1]"#]),
    ("in_text", &["--key", "k", "--scope", "acme"]),
    ("in_number", &["--key", "k", "--scope", "-1"]),
    ("in_uuid", &["--key", "k", "--scope", UUID]),
    ("in_nothing", &["--key", "k"]),
    (
        "in_pair",
        &["--key", "1", "--key", "2", "--scope", "3", "--scope", UUID],
    ),
    (
        "in_folder",
        &["--key", "k", "--scope-json", r#"[["a", "b"], 1]"#],
    ),
    ("of_header", &["--key", "k 1"]),
    ("of_header", &["--key-header", "\"k 1\";a=1"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_and_scope_is_named_by_words() {
    let tool = Tool::over_sqlite();
    let engine = idem::connect(tool.url()).await.unwrap();
    let engine = engine.namespace("shop").build();
    write_records(&engine).await.unwrap();
    let application = Router::new()
        .route("/", post(of_header))
        .layer(axum::Extension(engine));
    let request = Request::post("/").header("idempotency-key", "\"k 1\"");
    let request = request.body(Body::empty()).unwrap();
    assert!(
        application
            .oneshot(request)
            .await
            .unwrap()
            .status()
            .is_success()
    );

    for (operation, name) in NAMES {
        let named = ["get", "--namespace", "shop", "--operation", operation];
        let seen = tool.object(&[&named, *name].concat());
        assert_eq!(
            (&seen["operation"], &seen["state"]),
            (&(*operation).into(), &"finished".into()),
            "{name:?}"
        );
        // Nothing else is.
        tool.fails(1, &[&named[..1], &named[3..], name].concat());
    }
    let listed = tool.json(&["list", "--state", "finished"]);
    let operations: std::collections::BTreeSet<_> =
        NAMES.iter().map(|(operation, _)| operation).collect();
    assert_eq!(listed.len(), operations.len());
}

#[test]
fn the_words_name_what_the_engine_derives() {
    let engine = idem::EngineBuilder::new(Arc::new(idem::stores::memory::MemoryStore::new()));
    let engine = engine.namespace("shop").build();
    let operation = engine.operation("refunds").scope(&("acme", 7_u8));
    let name = Name {
        namespace: "shop".into(),
        operation: "refunds".into(),
        scope: Some(Composite::of_json(r#"["acme", 7]"#).unwrap()),
        key: Composite::of_texts(["42".into()]),
    };
    assert_eq!(name.record_id(), Ok(operation.record_id(&42_u32).unwrap()));
}
