//! The store: where its URL comes from, how it is opened, and what of the URL may be shown.

use std::sync::Arc;
use std::time::SystemTime;

use clap::Args;
use idem::store::{Maintenance, Store};
use idem::{Engine, EngineBuilder};

use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct TargetArguments {
    /// The store's URL, as the application has it: redis://…, postgres://…, sqlite://file.db, …
    ///
    /// Other users of this machine may see the arguments of a process: give a URL with a password in the
    /// variable.
    #[arg(
        long,
        value_name = "URL",
        env = "IDEM_STORE",
        hide_env_values = true,
        global = true
    )]
    store: Option<String>,
}

impl TargetArguments {
    /// Opens the store. It must be there, and nothing of it is changed.
    pub(crate) async fn attach(&self) -> Result<Target, Failure> {
        let url = self.url()?;
        let store = idem::stores::attach(url).await?;
        Ok(Target {
            engine: EngineBuilder::new(Arc::clone(&store)).build(),
            store,
            address: address_of(url),
        })
    }
}

impl TargetArguments {
    pub(crate) fn url(&self) -> Result<&str, Failure> {
        let url = self.store.as_deref().filter(|url| !url.is_empty());
        url.ok_or_else(|| {
            Failure::usage("which store? Give its URL with --store, or in the variable IDEM_STORE")
        })
    }

    /// Where the store is, whether it can be opened or not: without login and options.
    pub(crate) fn address(&self) -> Result<String, Failure> {
        self.url().map(address_of)
    }
}

/// It may hold a password.
impl std::fmt::Debug for TargetArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TargetArguments").finish_non_exhaustive()
    }
}

/// An open store.
pub(crate) struct Target {
    pub(crate) engine: Engine,
    store: Arc<dyn Store>,
    /// Its URL, without login and options.
    pub(crate) address: String,
}

impl Target {
    pub(crate) fn name(&self) -> &'static str {
        self.store.name()
    }

    /// Its engine, for an application's namespace.
    pub(crate) fn within(&self, namespace: String) -> Engine {
        let engine = EngineBuilder::new(Arc::clone(&self.store));
        engine.namespace(namespace).build()
    }

    /// # Errors
    /// When the store takes no orders of operators.
    pub(crate) fn maintenance(&self) -> Result<&dyn Maintenance, Failure> {
        self.store.maintenance().ok_or_else(|| {
            Failure::usage(format!(
                "the {} store cannot be asked for this",
                self.store.name()
            ))
        })
    }

    /// The time by the clock that leases are judged by; by this machine's where the store does not say.
    pub(crate) async fn time(&self) -> Result<SystemTime, Failure> {
        match self.store.maintenance() {
            Some(store) => Ok(store.time().await?),
            None => Ok(SystemTime::now()),
        }
    }
}

/// Where a URL leads: without login, and without options, which may hold secrets, too.
fn address_of(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(location, _)| location);
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = match rest.split_once('/') {
                Some((authority, path)) => (authority, format!("/{path}")),
                None => (rest, String::new()),
            };
            // A password that is not encoded may hold a slash.
            match (authority.rsplit_once('@'), path.rsplit_once('@')) {
                (_, Some((_, rest))) if scheme != "sqlite" => format!("{scheme}://{rest}"),
                (Some((_, hosts)), _) if scheme != "sqlite" => format!("{scheme}://{hosts}{path}"),
                _ => format!("{scheme}://{authority}{path}"),
            }
        }
        None => String::new(),
    }
}

/// A text in which the login of every URL is left out, and its options.
pub(crate) fn without_credentials(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, url)) = rest.split_once("://") {
        let ends = |c: char| c.is_whitespace() || c == '\'' || c == '"';
        let (url, after) = url.split_at(url.find(ends).unwrap_or(url.len()));
        shown.push_str(before);
        shown.push_str("://");
        if url.contains(['@', '?']) {
            shown.push('…');
        } else {
            shown.push_str(url);
        }
        rest = after;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_neither_login_nor_options() {
        for (url, address) in [
            ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
            ("redis://app:secret@db:6379/0?prefix=x", "redis://db:6379/0"),
            (
                "rediss-cluster://:secret@a:1,b:2",
                "rediss-cluster://a:1,b:2",
            ),
            ("postgres://app:sec/ret@db/shop", "postgres://db/shop"),
            (
                "postgres://app:sec@ret@db/shop?password=secret",
                "postgres://db/shop",
            ),
            (
                "sqlite:///var/a@b/records.db?sweep=off",
                "sqlite:///var/a@b/records.db",
            ),
            ("secret", ""),
        ] {
            assert_eq!(address_of(url), address, "{url}");
        }
    }

    #[test]
    fn a_text_loses_the_logins_of_its_urls() {
        assert_eq!(
            without_credentials(
                "unexpected argument 'redis://app:secret@db' found; see redis://db"
            ),
            "unexpected argument 'redis://…' found; see redis://db"
        );
        assert_eq!(without_credentials("no URL: a@b"), "no URL: a@b");
    }
}
