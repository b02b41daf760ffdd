//! From the name of a host to a session.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use xapi_client::{Client, Error as CallError, Trust};

use super::{Check, Finding, Report, Told};
use crate::error::{Error, NOTHING_LISTENS};
use crate::pool::{self, Access, node_and_port};
use crate::settings::{Settings, Tls};

/// How long a name server or a host may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at each host, and logs in to the first that lets us.
pub(super) async fn log_in<F: FnMut(Told<'_>) + Send>(
    settings: &Settings,
    report: &mut Report<F>,
) -> Option<Client> {
    report.begin(Check::Password);
    let password = match pool::password(&settings.password).await {
        Ok(password) => {
            report.add(Finding::good(Check::Password, "it can be had"));
            Some(password)
        }
        Err(error) => {
            report.add(Finding::of(Check::Password, &error));
            None
        }
    };
    let trust = pool::trust(&settings.tls).await;
    let way = match (password, trust) {
        (Some(password), Ok(trust)) => Ok(Way::In(Access::with(settings, password, trust))),
        (None, Ok(trust)) => Ok(Way::WithoutPassword(trust)),
        (_, Err(error)) => Err(error),
    };
    let mut hosts = Vec::new();
    for host in &settings.hosts {
        hosts.push(look(host, way.as_ref(), settings, report).await);
    }
    let is_reached = hosts.iter().any(|host| host.client.is_some());
    let mut all = Vec::new();
    let mut client = None;
    for mut host in hosts {
        // Another host does for it.
        if is_reached && host.client.is_none() {
            for finding in &mut host.findings {
                if finding.verdict == super::Verdict::Failed {
                    finding.verdict = super::Verdict::Warning;
                }
            }
        }
        all.append(&mut host.findings);
        if let Some(found) = host.client {
            if client.is_none() {
                client = Some(found);
            } else if let Err(error) = found.close().await {
                tracing::debug!(%error, "the session is left to the pool");
            }
        }
    }
    all.sort_by_key(|finding| finding.check);
    for finding in all {
        report.add(finding);
    }
    client
}

/// How far one can get into a host.
enum Way {
    /// To a login.
    In(Access),
    /// Only to its certificate.
    WithoutPassword(Trust),
}

#[derive(Default)]
struct Host {
    findings: Vec<Finding>,
    client: Option<Client>,
}

async fn look<F: FnMut(Told<'_>) + Send>(
    name: &str,
    way: Result<&Way, &Error>,
    settings: &Settings,
    report: &mut Report<F>,
) -> Host {
    let mut host = Host::default();
    let (node, port) = node_and_port(name);
    report.begin(Check::Dns);
    let addresses = match timeout(PATIENCE, lookup_host((node, port))).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => {
            host.has_no_address(format!("{node} has no address: {error}"));
            Vec::new()
        }
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            let found = format!("{node} has no address: no name server answered in {seconds} s");
            host.has_no_address(found);
            Vec::new()
        }
    };
    if addresses.is_empty() {
        host.skip([Check::Tcp, Check::Tls, Check::Login], Check::Dns);
        return host;
    }
    let listed: Vec<_> = addresses.iter().map(|a| a.ip().to_string()).collect();
    host.is_good(Check::Dns, format!("{node} is {}", listed.join(", ")));
    report.begin(Check::Tcp);
    match connect(&addresses).await {
        Ok(address) => host.is_good(Check::Tcp, format!("{address} accepts connections")),
        Err(error) => {
            let found = format!("{node} port {port}: {error}");
            let is_here = addresses.iter().all(|address| address.ip().is_loopback());
            let remedy = match is_here && error.kind() == io::ErrorKind::ConnectionRefused {
                true => NOTHING_LISTENS,
                false => {
                    "check that the host is up, the port in xcpng_host, and the firewalls between"
                }
            };
            host.findings
                .push(Finding::failed(Check::Tcp, found, remedy));
            host.skip([Check::Tls, Check::Login], Check::Tcp);
            return host;
        }
    }
    let way = match way {
        Ok(way) => way,
        Err(error) => {
            host.findings.push(Finding::of(Check::Tls, error));
            host.skip([Check::Login], Check::Tls);
            return host;
        }
    };
    let proved = match &settings.tls {
        Tls::Insecure => Finding::warning(
            Check::Tls,
            format!("{node} need not prove who it is (tls.insecure)"),
            "set tls.fingerprint, so that nobody on the way can read the password",
        ),
        Tls::Pinned(_) => Finding::good(Check::Tls, format!("{node} has a pinned certificate")),
        Tls::CaFile(_) | Tls::SystemRoots => Finding::good(
            Check::Tls,
            format!("a trusted authority vouches for {node}"),
        ),
    };
    let access = match way {
        Way::In(access) => access,
        Way::WithoutPassword(trust) => {
            report.begin(Check::Tls);
            host.findings.push(match trust.accepts(name).await {
                Ok(()) => proved,
                Err(error) => {
                    let error = pool::refusal(name, &settings.username, error);
                    Finding::of(Check::Tls, &error)
                }
            });
            host.skip([Check::Login], Check::Password);
            return host;
        }
    };
    report.begin(Check::Login);
    match access.log_in(name).await {
        Ok(client) => {
            host.findings.push(proved);
            let coordinator = match client.host_name() {
                Ok(other) if other != node => format!(", whose coordinator {other} is asked"),
                _ => String::new(),
            };
            let found = format!("{node} lets {:?} in{coordinator}", settings.username);
            host.is_good(Check::Login, found);
            host.client = Some(client);
        }
        Err(error) => {
            let is_tls = matches!(
                error,
                CallError::Untrusted { .. } | CallError::Tls { .. } | CallError::Connect { .. }
            );
            let error = pool::refusal(name, &settings.username, error);
            if is_tls {
                host.findings.push(Finding::of(Check::Tls, &error));
                host.skip([Check::Login], Check::Tls);
            } else {
                host.findings.push(proved);
                host.findings.push(Finding::of(Check::Login, &error));
            }
        }
    }
    host
}

impl Host {
    fn is_good(&mut self, check: Check, found: String) {
        self.findings.push(Finding::good(check, found));
    }

    fn has_no_address(&mut self, found: String) {
        let remedy = "check the name in xcpng_host, or give the address";
        self.findings
            .push(Finding::failed(Check::Dns, found, remedy));
    }

    fn skip<const N: usize>(&mut self, checks: [Check; N], needed: Check) {
        let skipped = checks.map(|check| Finding::skipped(check, needed));
        self.findings.extend(skipped);
    }
}

async fn connect(addresses: &[SocketAddr]) -> io::Result<SocketAddr> {
    let mut reason = io::Error::other("it has no address");
    for address in addresses {
        match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(*address),
            Ok(Err(error)) => reason = error,
            Err(_) => {
                reason = io::Error::other(format!("no answer within {} s", PATIENCE.as_secs()));
            }
        }
    }
    Err(reason)
}
