//! The hosts of a pool, any of which may become its coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use serde::Deserialize;
use tokio::task::JoinSet;

use crate::error::{Error, ErrorCode, Result};
use crate::session::{Live, Login, exchange, log_out};
use crate::transport::{Request, Transport};

/// The hosts that a client may turn to.
#[derive(Debug)]
pub(crate) struct Members {
    known: Vec<Arc<dyn Transport>>,
    /// The UUID of the pool, once the first login has told it.
    pool: OnceLock<String>,
}

#[derive(Deserialize)]
struct Pool {
    uuid: String,
}

impl Members {
    pub(crate) fn new(known: Vec<Arc<dyn Transport>>) -> Self {
        Self {
            known,
            pool: OnceLock::new(),
        }
    }

    /// Asks all hosts side by side, and logs in to the one that is the coordinator. Members only say who
    /// that is, so that no more sessions are made than there are coordinators.
    pub(crate) async fn log_in(&self, login: &Login) -> Result<Live> {
        let mut asked = BTreeSet::new();
        let mut probes = JoinSet::new();
        let mut ask = |transport: Arc<dyn Transport>, probes: &mut JoinSet<_>| {
            if asked.insert(transport.host().to_owned()) {
                let login = login.clone();
                probes.spawn(async move {
                    let outcome = login.once(transport.clone()).await;
                    (transport, outcome)
                });
            }
        };
        for transport in &self.known {
            ask(transport.clone(), &mut probes);
        }
        let mut reason = None;
        while let Some(probe) = probes.join_next().await {
            // A probe that panicked has nothing to say.
            let Ok((transport, outcome)) = probe else {
                continue;
            };
            let error = match outcome {
                Ok(live) => match self.check(&live).await {
                    Ok(()) => return Ok(live),
                    Err(error) => {
                        if let Err(error) = log_out(&live, login.timeout).await {
                            tracing::debug!(%error, "cannot log out of a host that is not used");
                        }
                        error
                    }
                },
                Err(error) => error,
            };
            tracing::debug!(host = transport.host(), %error, "not the coordinator to use");
            if let Error::Api(failure) = &error
                && failure.code == ErrorCode::HostIsSlave
                && let Ok(coordinator) = transport.redirect(failure.param(0))
            {
                ask(coordinator, &mut probes);
            }
            // A refusal says more than a host that does not answer.
            if reason.is_none() || matches!(error, Error::Api(_) | Error::Config(_)) {
                reason = Some(error);
            }
        }
        Err(reason.unwrap_or_else(|| Error::Config("the client knows no host".to_owned())))
    }

    /// Makes sure that the host is in the pool that the client was logged in to first: one that was
    /// ejected since is a pool of its own.
    pub(crate) async fn check(&self, live: &Live) -> Result<()> {
        let method = "pool.get_all_records";
        let body = live.protocol.encode(0, method, Some(live.session()), &[])?;
        let request = Request::new(method, body, live.timeout);
        let reply = exchange(&*live.transport, live.protocol, request).await?;
        let pools: BTreeMap<String, Pool> = reply.decode()?;
        let uuid = pools
            .into_values()
            .next()
            .map_or_else(String::new, |pool| pool.uuid);
        let expected = self.pool.get_or_init(|| uuid.clone());
        if *expected == uuid {
            return Ok(());
        }
        Err(Error::Config(format!(
            "{} is in another pool ({uuid}) than this client was logged in to ({expected}); remove it from \
             the known hosts, or make a client for each pool",
            live.transport.host()
        )))
    }
}
