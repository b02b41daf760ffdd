//! `bioxen trust`, and the decision whose certificate is believed.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use bioxen_vm_core::BackendConfig as _;
use bioxen_vm_xcpng::{Fingerprint, XcpngConfig};
use serde_json::{Value, json};
use toml_edit::{Array, Item, Table, value};

use super::ask::Person;
use super::file::{heading, open, save, table};
use crate::cli::{Place, print};
use crate::settings::{Origin, Settings};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Trust {
    /// Host name, address or URL; without it that of the settings
    host: Option<String>,

    /// The SHA-256 fingerprint as you know it from the host itself: it is trusted when the host shows
    /// that one
    #[arg(long)]
    fingerprint: Option<Fingerprint>,

    /// Print JSON, and ask nothing
    #[arg(long)]
    json: bool,
}

#[cfg(feature = "sim")]
impl Trust {
    /// Whether it is about another host than that of the settings.
    pub(in crate::cli) fn names_host(&self) -> bool {
        self.host.is_some()
    }
}

pub(in crate::cli) async fn trust(
    args: Trust,
    settings: Settings,
    place: Place,
) -> anyhow::Result<ExitCode> {
    let person = Person::unless(args.json);
    let configured = settings.config(XcpngConfig::VM_TYPE);
    let known = configured.get("xcpng_host");
    let known = known.and_then(|host| host.as_str().or_else(|| host.get(0)?.as_str()));
    let host = args
        .host
        .as_deref()
        .or(known)
        .context("name a host: the settings have no xcpng_host")?;
    let shown = presented_by(host).await?;
    let pinned = pinned(&settings, &configured, shown).filter(|_| known == Some(host));
    let told = |is_trusted: bool, file: Option<&std::path::Path>| {
        let file = file.map(|file| file.display().to_string());
        let json = json!({
            "host": host, "fingerprint": shown.to_string(), "trusted": is_trusted, "file": file,
        });
        match args.json {
            true => print(&format!("{json}\n")),
            false => Ok(()),
        }
    };
    if let (None, Some(origin)) = (args.fingerprint, pinned) {
        show(person, host, shown)?;
        person.tell(&format!("it is trusted already: {origin}\n"))?;
        let file = match origin {
            Origin::File { path, .. } | Origin::Pool { path, .. } => Some(&**path),
            _ => None,
        };
        told(true, file)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.fingerprint.is_none() && !person.is_there() {
        show(person, host, shown)?;
        person.tell(&format!(
            "{HOW}\nthen trust it, with the same --config and --pool:\n  \
             bioxen trust {host} --fingerprint {shown}\n"
        ))?;
        told(false, None)?;
        return Ok(ExitCode::SUCCESS);
    }
    let pin = decide(person, host, shown, args.fingerprint).await?;
    let (file, mut document) = open(&place)?;
    let Some(table) = table(&mut document, &place) else {
        person.tell(&format!(
            "no table [{}] in {}; write there: tls.fingerprint = \"{pin}\"\n",
            heading(&place),
            file.display()
        ))?;
        told(false, None)?;
        return Ok(ExitCode::SUCCESS);
    };
    ensure!(
        table
            .get("tls")
            .and_then(|tls| tls.get("ca_file"))
            .is_none(),
        "[{}] of {} trusts an authority (tls.ca_file); remove that first",
        heading(&place),
        file.display()
    );
    if table.get("tls").is_none() {
        table["tls"] = Item::Table(Table::new());
    }
    // A pool of which several hosts are named has as many certificates; of one it is another now.
    let has_several = known_hosts(&configured) > 1;
    let pinned = &mut table["tls"]["fingerprint"];
    let mut pins = match has_several {
        true => texts(pinned),
        false => Vec::new(),
    };
    if pins
        .iter()
        .all(|known| known.parse::<Fingerprint>().ok() != Some(pin))
    {
        pins.push(pin.to_string());
    }
    *pinned = match pins.as_slice() {
        [pin] => value(pin),
        pins => value(pins.iter().collect::<Array>()),
    };
    if let Some(tls) = table["tls"].as_table_like_mut() {
        tls.remove("insecure");
    }
    save(&file, &document)?;
    person.tell(&format!("trusted from now on, in {}\n", file.display()))?;
    told(true, Some(&file))?;
    Ok(ExitCode::SUCCESS)
}

/// Where the settings name this certificate.
fn pinned<'s>(
    settings: &'s Settings,
    configured: &Value,
    shown: Fingerprint,
) -> Option<&'s Origin> {
    let pins = configured.get("tls")?.get("fingerprint")?;
    let one = std::slice::from_ref(pins);
    let mut pins = pins.as_array().map_or(one, Vec::as_slice).iter();
    pins.find(|pin| pin.as_str().and_then(|pin| pin.parse().ok()) == Some(shown))?;
    settings.origin(XcpngConfig::VM_TYPE, "tls.fingerprint")
}

/// How many hosts of the pool the settings name.
fn known_hosts(configured: &Value) -> usize {
    let hosts = configured.get("xcpng_host").and_then(Value::as_array);
    hosts.map_or(1, Vec::len)
}

/// One text of the settings, or a list of them.
fn texts(item: &Item) -> Vec<String> {
    let many = item.as_array().into_iter().flatten();
    let texts = many.filter_map(|one| one.as_str());
    texts.chain(item.as_str()).map(str::to_owned).collect()
}

/// What the host itself says of its certificate, on its console.
const HOW: &str = "compare it with what the host itself says: \
                   openssl x509 -noout -fingerprint -sha256 -in /etc/xensource/xapi-ssl.pem";

/// Whose certificate the settings of a pool are to name. None is needed where this machine trusts it
/// anyway; without a decision nothing may be written.
pub(super) async fn to_pin(
    person: Person,
    host: &str,
    expected: Option<Fingerprint>,
) -> anyhow::Result<Option<Fingerprint>> {
    let authorities = bioxen_vm_xcpng::Trust::SystemRoots;
    if expected.is_none() && authorities.accepts(host).await.is_ok() {
        person.tell(&format!(
            "an authority that this machine trusts vouches for {host}\n"
        ))?;
        return Ok(None);
    }
    let shown = presented_by(host).await?;
    ensure!(
        expected.is_some() || person.is_there(),
        "{host} shows a certificate with the SHA-256 fingerprint {shown}, which nobody has said to \
         trust; {HOW}, and say so with --fingerprint {shown}; nothing was written"
    );
    decide(person, host, shown, expected).await.map(Some)
}

async fn presented_by(host: &str) -> anyhow::Result<Fingerprint> {
    Fingerprint::of_host(host)
        .await
        .with_context(|| format!("cannot see the certificate of {host}"))
}

/// Shows the certificate of a host, and gives it where it is to be trusted: when it is the expected
/// one, or when the user at the terminal says so.
async fn decide(
    person: Person,
    host: &str,
    shown: Fingerprint,
    expected: Option<Fingerprint>,
) -> anyhow::Result<Fingerprint> {
    show(person, host, shown)?;
    if let Some(expected) = expected {
        ensure!(
            expected == shown,
            "the certificate of {host} has the SHA-256 fingerprint {shown}, and not the expected one, \
             {expected}: this is another host, or somebody is in between; nothing was written"
        );
        return Ok(shown);
    }
    person.tell(&format!("{HOW}\n"))?;
    ensure!(
        person.agrees("--fingerprint", "are they the same?").await?,
        "the certificate of {host} is not trusted; nothing was written"
    );
    Ok(shown)
}

fn show(person: Person, host: &str, shown: Fingerprint) -> anyhow::Result<()> {
    person.tell(&format!(
        "{host} shows a certificate with the SHA-256 fingerprint\n  {shown}\n"
    ))
}
