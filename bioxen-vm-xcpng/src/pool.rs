//! The connection to the pool.

use std::process::Stdio;
use std::time::Duration;

use secrecy::SecretString;
use tokio::process::Command;
use tokio::sync::{Mutex, OnceCell};
use xapi_client::{Client, Error as CallError, ErrorCode, Trust};

use crate::error::{Error, Result};
use crate::settings::{Password, Settings, Tls};

/// What our sessions are counted under on the pool.
pub(crate) const ORIGINATOR: &str = concat!("bioxen/", env!("CARGO_PKG_VERSION"));

/// Under which key the pool marks the tasks of a run.
const RUN_OF_TASK: &str = "bioxen-run";
/// What the pool makes of that key.
pub(crate) const TASK_OF_RUN: &str = "http:bioxen-run";

/// How long a program may take to print a password; it may ask a person.
const PASSWORD_LIMIT: Duration = Duration::from_secs(60);

/// One login, made when first needed and shared by all.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    client: OnceCell<Client>,
    closed: Mutex<bool>,
}

impl Pool {
    /// The client of a run, logged in.
    pub(crate) async fn client(&self, settings: &Settings, run: &str) -> Result<&Client> {
        if *self.closed.lock().await {
            return Err(Error::Closed);
        }
        self.client.get_or_try_init(|| log_in(settings, run)).await
    }

    /// Logs out, as far as that can be done. Later calls fail.
    pub(crate) async fn close(&self) {
        *self.closed.lock().await = true;
        if let Some(client) = self.client.get() {
            tracing::info!(calls = client.calls_sent(), "logging out of the pool");
            // What was to be done is done; a host that has just ended has ended its sessions too.
            if let Err(error) = client.close().await {
                tracing::warn!(%error, "cannot log out; the pool forgets the session after a day");
            }
        }
    }
}

async fn log_in(settings: &Settings, run: &str) -> Result<Client> {
    let access = Access::new(settings).await?.of_run(run);
    let mut failure = None;
    for host in &settings.hosts {
        let login = access.log_in(host).await;
        match login.map_err(|error| refusal(host, &settings.username, error)) {
            Ok(client) => {
                if let Some(error @ Error::Untrusted { .. }) = &failure {
                    tracing::warn!(%error, "another host of the pool is used");
                }
                return Ok(client);
            }
            // Another host of the pool may be up, or trusted. This one was told nothing.
            Err(
                error @ (Error::Unreachable { .. } | Error::NoTls { .. } | Error::Untrusted { .. }),
            ) => {
                tracing::debug!(%error, "the next host is tried");
                failure.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    // The settings have at least one host.
    Err(failure.unwrap_or(Error::Closed))
}

/// What it takes to log in to a host of the pool.
pub(crate) struct Access {
    username: String,
    password: SecretString,
    trust: Trust,
    /// Which run of this program does something on the pool.
    run: Option<String>,
}

impl Access {
    /// Gets the password, and whatever else is not in the configuration itself.
    pub(crate) async fn new(settings: &Settings) -> Result<Self> {
        Ok(Self::with(
            settings,
            password(&settings.password).await?,
            trust(&settings.tls).await?,
        ))
    }

    /// The same of what was got already.
    pub(crate) fn with(settings: &Settings, password: SecretString, trust: Trust) -> Self {
        Self {
            username: settings.username.clone(),
            password,
            trust,
            run: None,
        }
    }

    /// Marks what the pool works on for this run: what is still at work when it is killed is about to
    /// make something.
    fn of_run(mut self, run: &str) -> Self {
        self.run = Some(run.to_owned());
        self
    }

    pub(crate) async fn log_in(&self, host: &str) -> Result<Client, CallError> {
        let mut builder = Client::builder(host);
        if let Some(run) = &self.run {
            builder = builder.task_mark(RUN_OF_TASK, run);
        }
        builder
            .credentials(&self.username, self.password.clone())
            .originator(ORIGINATOR)
            .user_agent(ORIGINATOR)
            .trust(self.trust.clone())
            // A trusted member would get the password itself, so its word on the coordinator will do.
            .trust_vouched(true)
            .login()
            .await
    }
}

/// Why a host did not let us in.
pub(crate) fn refusal(configured: &str, username: &str, error: CallError) -> Error {
    match error {
        CallError::Connect { host, port, source } => Error::Unreachable { host, port, source },
        CallError::Tls { host, port, source } => Error::NoTls { host, port, source },
        CallError::Untrusted {
            host,
            fingerprint,
            source,
            ..
        } => Error::Untrusted {
            address: match node_and_port(configured).0 == host {
                true => configured.to_owned(),
                // The one that it has sent us to.
                false => host.clone(),
            },
            host,
            fingerprint,
            source,
        },
        CallError::Api(failure) if failure.code == ErrorCode::SessionAuthenticationFailed => {
            Error::WrongPassword {
                host: configured.to_owned(),
                username: username.to_owned(),
            }
        }
        source => Error::Login {
            host: configured.to_owned(),
            source: Box::new(source),
        },
    }
}

pub(crate) async fn password(source: &Password) -> Result<SecretString> {
    match source {
        Password::Value(password) => Ok(password.clone()),
        Password::File(path) => {
            let text = tokio::fs::read_to_string(path).await;
            let text = text.map_err(|source| Error::PasswordFile {
                path: path.clone(),
                source,
            })?;
            first_line(&text).ok_or_else(|| Error::PasswordFile {
                path: path.clone(),
                source: std::io::Error::other("its first line is empty"),
            })
        }
        Password::Command(words) => {
            let program = words.first().cloned().unwrap_or_default();
            printed_password(&program, words.get(1..).unwrap_or_default())
                .await
                .map_err(|reason| Error::PasswordCommand { program, reason })
        }
    }
}

/// The first line that a program prints. It runs as the user would run it, with the user's own
/// environment: password stores need it.
async fn printed_password(program: &str, args: &[String]) -> Result<SecretString, String> {
    let run = Command::new(program)
        .args(args)
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PASSWORD_LIMIT, run)
        .await
        .map_err(|_| format!("it took longer than {} s", PASSWORD_LIMIT.as_secs()))?
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(output.status.to_string());
    }
    let text = String::from_utf8(output.stdout).map_err(|_| "it is no UTF-8 text".to_owned())?;
    first_line(&text).ok_or_else(|| "it printed nothing".into())
}

fn first_line(text: &str) -> Option<SecretString> {
    let line = text.lines().next().filter(|line| !line.is_empty())?;
    Some(SecretString::from(line))
}

pub(crate) async fn trust(tls: &Tls) -> Result<Trust> {
    Ok(match tls {
        Tls::SystemRoots => Trust::SystemRoots,
        Tls::Pinned(pins) => Trust::PinnedAny(pins.clone()),
        Tls::Insecure => Trust::Insecure,
        Tls::CaFile(path) => {
            let pem = tokio::fs::read_to_string(path).await;
            Trust::Ca(pem.map_err(|source| Error::CaFile {
                path: path.clone(),
                source,
            })?)
        }
    })
}

/// Name or address and port of a host as it is configured.
pub(crate) fn node_and_port(host: &str) -> (&str, u16) {
    const HTTPS: u16 = 443;
    let host = host.strip_prefix("https://").unwrap_or(host);
    let host = host.strip_suffix('/').unwrap_or(host);
    if let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let port = port.strip_prefix(':').and_then(|port| port.parse().ok());
        return (address, port.unwrap_or(HTTPS));
    }
    match host.rsplit_once(':') {
        // More than one colon is an IPv6 address.
        Some((node, port)) if !node.contains(':') => (node, port.parse().unwrap_or(HTTPS)),
        _ => (host, HTTPS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn hosts_are_taken_apart_in_every_form() {
        for (host, expected) in [
            ("pool", ("pool", 443)),
            ("https://pool/", ("pool", 443)),
            ("pool:8443", ("pool", 8443)),
            ("10.0.0.1:8443", ("10.0.0.1", 8443)),
            ("fe80::1", ("fe80::1", 443)),
            ("[::1]:8443", ("::1", 8443)),
            ("https://[::1]", ("::1", 443)),
        ] {
            assert_eq!(node_and_port(host), expected, "{host}");
        }
    }

    #[tokio::test]
    async fn a_password_comes_from_a_value_a_file_or_a_program() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from file \nmore\n").unwrap();
        let command = |words: &[&str]| {
            Password::Command(words.iter().map(|word| (*word).to_owned()).collect())
        };
        for (source, expected) in [
            (Password::Value("value".to_owned().into()), "value"),
            (Password::File(file.path().to_owned()), "from file "),
            (command(&["printf", "%s\\nmore", "printed"]), "printed"),
        ] {
            assert_eq!(password(&source).await.unwrap().expose_secret(), expected);
        }
        for (source, reason) in [
            (Password::File("/no/such".into()), "/no/such"),
            (command(&["/no/such"]), "No such file"),
            (command(&["false"]), "exit status: 1"),
            (command(&["true"]), "printed nothing"),
        ] {
            let error = password(&source).await.unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
