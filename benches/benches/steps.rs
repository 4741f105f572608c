//! Three steps whose values are kept, against a library for durable workflows that does the same over the
//! same database. Every commit is on the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use durare::{DurableContext, DurableEngine, WorkflowOptions};
use idem::stores::postgres::PostgresStore;
use idem::stores::sqlite::SqliteStore;
use idem::{Engine, Error, Fingerprint, Operation};
use idem_benches::Target::{self, AtLeast, Baseline};
use idem_benches::crowd::{crowds, paced, two_threads};
use idem_benches::{Contender, interleave, print_rates, scaled};
use idem_tests::{Postgres, TempDir};
use tokio::runtime::Runtime;

/// Callers at once.
const CROWDS: [usize; 3] = [1, 8, 64];

/// How long a contender's turn is: short, as disks have moods.
const TURN: Duration = Duration::from_millis(500);

/// A connection of PostgreSQL that is idle says after ten seconds what it has counted.
const TOLD: Duration = Duration::from_secs(11);

#[durare::step]
async fn hold(ctx: &DurableContext, order: u64) -> durare::Result<u64> {
    Ok(order)
}

#[durare::step]
async fn charge(ctx: &DurableContext, order: u64) -> durare::Result<u64> {
    Ok(order)
}

#[durare::step]
async fn mail(ctx: &DurableContext, order: u64) -> durare::Result<u64> {
    Ok(order)
}

#[durare::workflow]
async fn trip(ctx: DurableContext, order: u64) -> durare::Result<u64> {
    let held = hold(&ctx, order).await?;
    let charged = charge(&ctx, held).await?;
    mail(&ctx, charged).await
}

fn main() {
    let runtime = two_threads();
    for (place, callers) in crowds(&CROWDS).into_iter().enumerate() {
        let server = Postgres::start();
        let store = runtime.block_on(PostgresStore::connect(&server.url()));
        let engine = Engine::new(store.expect("a store"));
        let workflows = runtime.block_on(workflows(&server.url()));
        let commits = || {
            server.psql("SELECT pg_stat_clear_snapshot()");
            let seen = server.psql(
                "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()",
            );
            seen.parse().unwrap_or_default()
        };
        compare(
            &runtime,
            "PostgreSQL",
            callers,
            &engine,
            &workflows,
            // However many call, it is the same.
            (place == 0).then_some(&commits),
        );

        let directory = TempDir::new("bench");
        let url = |name| format!("sqlite://{}", directory.path().join(name).display());
        let store = runtime.block_on(SqliteStore::connect(&url("idem.db")));
        let engine = Engine::new(store.expect("a store"));
        let workflows =
            runtime.block_on(self::workflows(&format!("{}?mode=rwc", url("durare.db"))));
        compare(&runtime, "SQLite", callers, &engine, &workflows, None);
    }
}

async fn workflows(url: &str) -> Arc<DurableEngine> {
    let builder = DurableEngine::connect(url).await.expect("its database");
    Arc::new(builder.build().await.expect("its tables"))
}

fn compare(
    runtime: &Runtime,
    database: &str,
    callers: usize,
    engine: &Engine,
    workflows: &Arc<DurableEngine>,
    commits: Option<&dyn Fn() -> u64>,
) {
    let operation = engine.operation("trips.book");
    let three_steps = move |kept: bool| {
        let operation = operation.clone();
        move || {
            let operation = operation.clone();
            async move { book(&operation, kept).await }
        }
    };
    let workflow = {
        let workflows = Arc::clone(workflows);
        move || {
            let workflows = Arc::clone(&workflows);
            async move {
                let order = next();
                let options = WorkflowOptions::with_id(format!("order-{order}"));
                let handle = workflows.start_with(Trip, order, options).await;
                assert_eq!(handle.expect("it starts").await.expect("it ends"), order);
            }
        }
    };
    if let Some(commits) = commits {
        println!("\n### {database}, {callers} at once: commits of one call\n");
        println!("| | commits |\n|---|---|");
        let count = |name: &str, run: &dyn Fn() -> f64| {
            let before = commits();
            let calls = TURN.as_secs_f64() * 1e9 / run();
            std::thread::sleep(TOLD);
            #[allow(clippy::cast_precision_loss)]
            let commits = (commits() - before) as f64 / calls;
            println!("| {name} | {commits:.1} |");
        };
        let (plain, steps) = (three_steps(false), three_steps(true));
        count("`idem`, no steps", &|| {
            paced(runtime, callers, TURN, plain.clone())
        });
        count("`idem`, three steps", &|| {
            paced(runtime, callers, TURN, steps.clone())
        });
        count("`durare`, three steps", &|| {
            paced(runtime, callers, TURN, workflow.clone())
        });
    }
    let (plain, steps) = (three_steps(false), three_steps(true));
    let contenders = vec![
        Contender::new("`durare`, three steps", Baseline, || {
            [paced(runtime, callers, TURN, workflow.clone())]
        }),
        Contender::new("`idem`, three steps", AtLeast(1.0), || {
            [paced(runtime, callers, TURN, steps.clone())]
        }),
        Contender::new("`idem`, no steps", Target::None, || {
            [paced(runtime, callers, TURN, plain.clone())]
        }),
    ];
    let title = format!("{database}, {callers} at once");
    let [figures] = interleave(scaled(5, 2), contenders);
    print_rates(&title, &figures);
}

fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

async fn book(operation: &Operation, kept: bool) {
    let order = next();
    let step = async |name: &str, value: u64| match kept {
        true => idem::step(name, async { Ok::<_, Error>(value) }).await,
        false => Ok(value),
    };
    let body = async {
        let held = step("hold", order).await?;
        let charged = step("charge", held).await?;
        step("mail", charged).await
    };
    let request = Fingerprint::of(&order).expect("a fingerprint");
    let booked: Result<u64, Error> = operation.run(&order, request, body).await;
    assert_eq!(booked.expect("it is booked"), order);
}
