//! The shop's page and the dashboard, in a browser.

use bytes::Bytes;
use http::Request;
use idem::stores::memory::MemoryStore;
use idem::{Engine, Error, Fingerprint};
use idem_examples::{Browser, Example};
use serde_json::Value;
use tokio::sync::oneshot;

async fn charges(shop: &Example) -> Vec<Value> {
    let list = Request::get("/charges").body(Bytes::new()).unwrap();
    let list = shop.server.send(list).await;
    serde_json::from_slice(list.body()).unwrap()
}

fn start() -> (Example, String) {
    let shop = Example::start("checkout", &[]);
    let address = format!("http://{}", shop.server.0);
    (shop, address)
}

/// The sentence under the form, once it is that of an end.
async fn end(browser: &Browser) -> String {
    let said = "document.querySelector('#status')";
    let ended =
        format!("{said}.className && {said}.textContent !== 'Paying…' && {said}.textContent");
    browser.until(&ended).await.as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn pay_clicked_twice_within_50_ms_charges_once() {
    let (shop, address) = start();
    let browser = Browser::start().await;
    browser.open(&address).await;
    browser
        .value("(window.clicks = [], document.querySelector('#pay').addEventListener('submit', () => clicks.push(performance.now()), true))")
        .await;
    let mut payments = 0;
    // A busy machine may hold up the second click.
    loop {
        browser
            .value("(clicks.length = 0, document.querySelector('#status').className = '')")
            .await;
        browser.double_click("#pay-button").await;
        payments += 1;
        assert!(end(&browser).await.starts_with("Paid once"));
        assert_eq!(browser.value("clicks.length").await, 2);
        assert_eq!(charges(&shop).await.len(), payments);
        if browser
            .value("clicks[1] - clicks[0]")
            .await
            .as_f64()
            .unwrap()
            < 50.0
        {
            break;
        }
        assert!(payments < 20, "no double click within 50 ms");
    }

    // Two tabs send two requests with one key: one is executed, the other is given its answer.
    browser
        .value("(document.querySelector('#status').className = '')")
        .await;
    browser.click("#twice").await;
    browser
        .until("document.querySelector('#replayed').textContent === '1'")
        .await;
    payments += 1;
    let executed = browser
        .value("document.querySelector('#executed').textContent")
        .await;
    assert_eq!(executed, payments.to_string());
    assert_eq!(charges(&shop).await.len(), payments);

    // A lost answer comes back, and the key is no other payment's.
    browser
        .value("(document.querySelector('#status').className = '')")
        .await;
    browser.click("#lose").await;
    assert!(end(&browser).await.contains("nothing was charged again"));
    payments += 1;
    browser
        .value("(document.querySelector('#status').className = '')")
        .await;
    browser.click("#change").await;
    browser
        .until("document.querySelector('#status').textContent.startsWith('Refused with 422')")
        .await;
    payments += 1;
    assert_eq!(charges(&shop).await.len(), payments);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_crashed_is_resolved_on_the_dashboard() {
    let (shop, address) = start();
    let browser = Browser::start().await;
    browser.open(&address).await;
    browser.click("#crash").await;
    assert!(end(&browser).await.starts_with("We do not know yet"));
    let link = browser.until("document.querySelector('#resolve').href.includes('#/record/') && document.querySelector('#resolve').href").await;
    let (_, id) = link.as_str().unwrap().split_once("#/record/").unwrap();

    // It is seen, and found with the keyboard alone.
    browser.open(&format!("{address}/idem")).await;
    browser
        .until("document.querySelector('[data-count=crashed]')?.textContent === '1'")
        .await;
    browser
        .until(&format!(
            "document.querySelector('tr[data-row=\"{id}\"] .pill.crashed')"
        ))
        .await;
    browser.press("c").await;
    browser.until("location.hash === '#/records?state=crashed' && document.querySelector('h1')?.textContent === 'Records'").await;
    browser.press("j\u{E007}").await;
    browser.until(&format!("location.hash === '#/record/{id}' && document.querySelector('h1')?.textContent === 'charges.create'")).await;

    // Somebody has looked: the bank has charged it.
    browser.click(".choices .main").await;
    let charge = charges(&shop).await[0].to_string();
    browser.write("dialog [name=body]", &charge).await;
    browser
        .write("dialog [name=reason]", "the bank has it")
        .await;
    browser.click("dialog [type=submit]").await;
    browser
        .until("document.querySelector('.title .pill.finished')")
        .await;
    browser.press("o").await;
    browser
        .until("document.querySelector('[data-count=crashed]')?.textContent === '0'")
        .await;

    // The page asks again by itself when it is opened, with the key that it has kept.
    let of_another_site =
        |line: &String| line.contains("Content Security Policy") || line.contains("Uncaught");
    let console = browser.console().await;
    assert!(!console.iter().any(of_another_site), "{console:?}");
    browser.open(&address).await;
    assert!(end(&browser).await.contains("came from the record"));
    assert_eq!(charges(&shop).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_alive_is_taken_away_after_a_second_confirmation() {
    let engine = Engine::new(MemoryStore::new());
    let charges = engine.operation("charges.create");
    let id = charges.record_id("k").unwrap();
    let request = Fingerprint::of("the request").unwrap();
    let (ends, end) = oneshot::channel::<()>();
    let (begun, begins) = oneshot::channel();
    let at_work = tokio::spawn(async move {
        let body = async {
            begun.send(()).unwrap();
            let _ = end.await;
            Ok::<_, Error>("first".to_owned())
        };
        charges.run("k", request, body).await
    });
    begins.await.unwrap();
    let dashboard = idem::axum::dashboard(engine.clone()).allow_changes(true);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, dashboard.into_router::<()>()).await });

    let browser = Browser::start().await;
    browser
        .open(&format!("http://{address}/#/record/{id}"))
        .await;
    browser.click(".choices .main").await;
    let kind = "document.querySelector('dialog [name=kind]')";
    browser
        .value(&format!(
            "({kind}.value = 'value', {kind}.dispatchEvent(new Event('change')))"
        ))
        .await;
    browser.write("dialog [name=json]", "\"by hand\"").await;
    browser.write("dialog [name=reason]", "it hangs").await;
    browser.click("dialog [type=submit]").await;

    // Nothing is sent before the attempt has been named.
    let warning = browser
        .until("document.querySelector('dialog [name=revoke]') && document.querySelector('dialog').innerText")
        .await;
    let warning = warning.as_str().unwrap();
    assert!(
        warning.contains("Attempt 1 holds the lease, and its body may still be running"),
        "{warning}"
    );
    browser.click("dialog [type=submit]").await;
    browser.write("dialog [name=revoke]", "attempt 2").await;
    browser.click("dialog [type=submit]").await;
    let found = engine.operation("").inspect_record(&id).await.unwrap();
    let lease = found.map(|found| found.phase);
    assert!(
        matches!(
            lease,
            Some(idem::Phase::Running {
                lease_left: Some(_)
            })
        ),
        "{lease:?}"
    );
    let clear = "document.querySelector('dialog [name=revoke]').value = ''";
    browser.value(&format!("({clear})")).await;
    browser.write("dialog [name=revoke]", "attempt 1").await;
    browser.click("dialog [type=submit]").await;
    browser
        .until("document.querySelector('.title .pill.finished')")
        .await;

    ends.send(()).unwrap();
    assert_eq!(at_work.await.unwrap().unwrap(), "first");
    let again = async { Ok::<_, Error>("executed again".to_owned()) };
    let charges = engine.operation("charges.create");
    assert_eq!(charges.run("k", request, again).await.unwrap(), "by hand");
}
