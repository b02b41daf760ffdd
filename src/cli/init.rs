//! `bioxen config init` and `bioxen trust`: the settings of a pool come into being, and the decision
//! whose certificate is believed.

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use bioxen_vm_core::BackendConfig as _;
use bioxen_vm_xcpng::{Fingerprint, XcpngConfig};
use serde_json::Value;
use toml_edit::{Array, DocumentMut, Item, Table, value};

use super::{Place, doctor, print, warn};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
pub(super) struct Init {
    /// Host name, address or URL of any host of the pool
    #[arg(long)]
    host: Option<String>,

    /// Who logs in to the pool
    #[arg(long)]
    username: Option<String>,

    /// A file whose first line is the password; asked for at a terminal, the password goes into a new
    /// file that only you can read
    #[arg(long, value_name = "FILE", group = "secret")]
    password_file: Option<PathBuf>,

    /// An environment variable that has the password
    #[arg(long, value_name = "NAME", group = "secret")]
    password_variable: Option<String>,

    /// Name or UUID of the template that VMs are made from
    #[arg(long)]
    template: Option<String>,

    /// The SHA-256 fingerprint of the host's certificate, as you know it from the host itself; asked
    /// for at a terminal, unless an authority that this machine trusts has signed the certificate
    #[arg(long)]
    fingerprint: Option<Fingerprint>,

    /// An xcpng_config.json or bioxen_config.json of the earlier programs to take settings from
    #[arg(long, value_name = "FILE")]
    import: Option<PathBuf>,

    /// Write the file without looking whether the pool can be used
    #[arg(long)]
    no_test: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Trust {
    /// Host name, address or URL; without it that of the settings
    host: Option<String>,

    /// The SHA-256 fingerprint as you know it from the host itself: it is trusted when the host shows
    /// that one
    #[arg(long)]
    fingerprint: Option<Fingerprint>,
}

/// What an earlier program has told of a pool, by today's keys.
type Imported = Vec<(String, String)>;

pub(super) async fn init(args: Init, settings: Settings, place: Place) -> anyhow::Result<ExitCode> {
    let (file, mut document) = open(&place)?;
    ensure!(
        table(&mut document, &place).is_none(),
        "{} has a table [{}] already; edit it, or name another pool with --pool",
        file.display(),
        heading(&place)
    );
    let mut imported = match &args.import {
        Some(path) => import(path, args.host.as_deref())?,
        None => Vec::new(),
    };
    let mut old = |key: &str| {
        let at = imported.iter().position(|(name, _)| name == key)?;
        Some(imported.swap_remove(at).1)
    };
    let host = match old("xcpng_host").or(args.host) {
        Some(host) => host,
        None => ask("--host", "host name or address of the pool", None)?,
    };
    let username = match args.username.or_else(|| old("username")) {
        Some(name) => name,
        None => ask("--username", "user of the pool", Some("root"))?,
    };
    let template = match args.template.or_else(|| old("template")) {
        Some(name) => name,
        None => ask("--template", "template", Some("lua-bio-template"))?,
    };
    let password = match (args.password_file, args.password_variable, old("password")) {
        (Some(path), ..) => Password::File(std::path::absolute(path)?),
        (_, Some(name), _) => Password::Variable(name),
        (.., Some(password)) => Password::New(password),
        _ => Password::New(ask_password(&username)?),
    };
    let pin = to_pin(&host, args.fingerprint).await?;

    let mut written = Table::new();
    written["xcpng_host"] = value(&host);
    written["username"] = value(username);
    written["template"] = value(template);
    for (key, text) in imported {
        match key.split_once('.') {
            Some((table, key)) => written[table][key] = value(text),
            None => written[&key] = value(text),
        }
    }
    if let Some(pin) = pin {
        written["tls"]["fingerprint"] = value(pin.to_string());
    }
    match password {
        Password::File(path) => written["password_file"] = value(path.display().to_string()),
        Password::Variable(name) => written["password_variable"] = value(name),
        Password::New(password) => {
            let name = format!("{}.password", place.pool.as_deref().unwrap_or("pool"));
            let path = file.with_file_name(&name);
            keep(&path, &password)?;
            print(&format!("wrote the password to {}\n", path.display()))?;
            written["password_file"] = value(name);
        }
    }
    match &place.pool {
        Some(pool) => {
            let pools = document.entry("pools").or_insert_with(|| {
                let mut pools = Table::new();
                pools.set_implicit(true);
                Item::Table(pools)
            });
            pools[pool] = Item::Table(written);
        }
        None => document["xcpng"] = Item::Table(written),
    }
    save(&file, &document)?;
    print(&format!(
        "wrote [{}] to {}\n",
        heading(&place),
        file.display()
    ))?;
    if args.no_test {
        return Ok(ExitCode::SUCCESS);
    }
    let mut settings = settings;
    settings.read_file(&file, place.pool.as_deref())?;
    doctor::run(doctor::Args::without_vm(), settings).await
}

pub(super) async fn trust(
    args: Trust,
    settings: Settings,
    place: Place,
) -> anyhow::Result<ExitCode> {
    let configured = settings.config(XcpngConfig::VM_TYPE);
    let known = configured.get("xcpng_host");
    let known = known.and_then(|host| host.as_str().or_else(|| host.get(0)?.as_str()));
    let host = args
        .host
        .as_deref()
        .or(known)
        .context("name a host: the settings have no xcpng_host")?;
    let shown = presented_by(host).await?;
    if args.fingerprint.is_none() && !is_asked() {
        show(host, shown)?;
        print(&format!(
            "{HOW}\nthen trust it, with the same --config and --pool:\n  \
             bioxen trust {host} --fingerprint {shown}\n"
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let pin = decide(host, shown, args.fingerprint)?;
    let (file, mut document) = open(&place)?;
    let Some(table) = table(&mut document, &place) else {
        print(&format!(
            "no table [{}] in {}; write there: tls.fingerprint = \"{pin}\"\n",
            heading(&place),
            file.display()
        ))?;
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
    print(&format!("trusted from now on, in {}\n", file.display()))?;
    Ok(ExitCode::SUCCESS)
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
async fn to_pin(host: &str, expected: Option<Fingerprint>) -> anyhow::Result<Option<Fingerprint>> {
    let authorities = bioxen_vm_xcpng::Trust::SystemRoots;
    if expected.is_none() && authorities.accepts(host).await.is_ok() {
        print(&format!(
            "an authority that this machine trusts vouches for {host}\n"
        ))?;
        return Ok(None);
    }
    let shown = presented_by(host).await?;
    ensure!(
        expected.is_some() || is_asked(),
        "{host} shows a certificate with the SHA-256 fingerprint {shown}, which nobody has said to \
         trust; {HOW}, and say so with --fingerprint {shown}; nothing was written"
    );
    decide(host, shown, expected).map(Some)
}

async fn presented_by(host: &str) -> anyhow::Result<Fingerprint> {
    Fingerprint::of_host(host)
        .await
        .with_context(|| format!("cannot see the certificate of {host}"))
}

/// Shows the certificate of a host, and gives it where it is to be trusted: when it is the expected
/// one, or when the user at the terminal says so.
fn decide(
    host: &str,
    shown: Fingerprint,
    expected: Option<Fingerprint>,
) -> anyhow::Result<Fingerprint> {
    show(host, shown)?;
    if let Some(expected) = expected {
        ensure!(
            expected == shown,
            "that is not the expected one, {expected}: this is another host, or somebody is in \
             between; nothing was written"
        );
        return Ok(shown);
    }
    print(&format!("{HOW}\n"))?;
    let answer = ask(
        "--fingerprint",
        "are they the same? (yes or no)",
        Some("no"),
    )?;
    ensure!(
        matches!(answer.as_str(), "yes" | "y"),
        "the certificate of {host} is not trusted; nothing was written"
    );
    Ok(shown)
}

fn show(host: &str, shown: Fingerprint) -> anyhow::Result<()> {
    print(&format!(
        "{host} shows a certificate with the SHA-256 fingerprint\n  {shown}\n"
    ))
}

enum Password {
    File(PathBuf),
    Variable(String),
    New(String),
}

/// Reads what an earlier program knew of a pool: one flat table of settings, or one for each URL.
fn import(path: &Path, host: Option<&str>) -> anyhow::Result<Imported> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: Value = serde_json::from_str(&text).map_err(|error| {
        // Serde's report may quote a password.
        anyhow::anyhow!("{} line {} is not JSON", path.display(), error.line())
    })?;
    let pools = file.get("xcpng_configs").and_then(Value::as_object);
    let (url, settings) = match pools {
        None => (None, &file),
        Some(pools) => {
            let mut fitting = pools
                .iter()
                .filter(|(url, _)| host.is_none_or(|host| url.contains(host)));
            match (fitting.next(), fitting.next()) {
                (Some((url, settings)), None) => (Some(url), settings),
                (None, _) => bail!("{} has no pool that --host names", path.display()),
                _ => bail!(
                    "{} has several pools; say which with --host: {}",
                    path.display(),
                    pools.keys().cloned().collect::<Vec<_>>().join(", ")
                ),
            }
        }
    };
    let settings = settings
        .as_object()
        .with_context(|| format!("{} has no table of settings", path.display()))?;
    let mut known = Vec::new();
    for (key, text) in settings {
        let older = XcpngConfig::OLDER_KEYS.iter().find(|(old, _)| old == key);
        let same = ["xcpng_host", "username", "password", "template", "memory"];
        let key = match older {
            Some((_, new)) => *new,
            None if same.contains(&key.as_str()) => key,
            None => {
                let why = XcpngConfig::advice(key).unwrap_or("nothing of that name is left");
                warn(&format!("{key} is not taken over: {why}"));
                continue;
            }
        };
        if let Some(text) = text.as_str().filter(|text| !text.is_empty()) {
            known.push((key.to_owned(), text.to_owned()));
        }
    }
    if let Some(url) = url
        && !known.iter().any(|(key, _)| key == "xcpng_host")
    {
        known.push(("xcpng_host".to_owned(), url.clone()));
    }
    Ok(known)
}

/// The settings file and what is in it.
fn open(place: &Place) -> anyhow::Result<(PathBuf, DocumentMut)> {
    let file = place
        .file
        .clone()
        .context("there is no home folder for a settings file; name one with --config")?;
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let document = text.parse().map_err(|error: toml_edit::TomlError| {
        let end = error.span().map_or(0, |span| span.start).min(text.len());
        let line = 1 + text[..end].matches('\n').count();
        anyhow::anyhow!(
            "{} line {line} is not valid TOML: {}",
            file.display(),
            error.message()
        )
    })?;
    Ok((file, document))
}

/// The table that settings of the pool stand in, if it is there.
fn table<'d>(document: &'d mut DocumentMut, place: &Place) -> Option<&'d mut Item> {
    let table = match &place.pool {
        Some(pool) => document.get_mut("pools")?.get_mut(pool),
        None => document.get_mut("xcpng"),
    };
    // What is asked for in order to change it is always there, if only as nothing.
    table.filter(|table| !table.is_none())
}

fn heading(place: &Place) -> String {
    match &place.pool {
        Some(pool) => format!("pools.{pool}"),
        None => "xcpng".to_owned(),
    }
}

/// Replaces a file as a whole, so that it is never half written.
fn save(file: &Path, document: &DocumentMut) -> anyhow::Result<()> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let written = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        new.write_all(document.to_string().as_bytes())?;
        if let Ok(known) = file.metadata() {
            new.as_file().set_permissions(known.permissions())?;
        }
        new.persist(file)?;
        Ok(())
    };
    written().with_context(|| format!("cannot write {}", file.display()))
}

/// Keeps a password in a new file that only its owner can read.
fn keep(path: &Path, password: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(path);
    opened
        .and_then(|mut file| writeln!(file, "{password}"))
        .with_context(|| {
            format!(
                "cannot write the password to {}; give --password-file",
                path.display()
            )
        })
}

/// Whether there is somebody to ask.
fn is_asked() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Asks for what an option would have said.
fn ask(option: &str, what: &str, default: Option<&str>) -> anyhow::Result<String> {
    if !is_asked() {
        return match default {
            Some(default) => Ok(default.to_owned()),
            None => bail!("give {option}: there is no terminal to ask at"),
        };
    }
    let mut editor = rustyline::DefaultEditor::new().context("cannot use the terminal")?;
    let prompt = match default {
        Some(default) => format!("{what} [{default}]: "),
        None => format!("{what}: "),
    };
    loop {
        let line = editor.readline(&prompt).context("nothing was written")?;
        match (line.trim(), default) {
            ("", Some(default)) => return Ok(default.to_owned()),
            ("", None) => {}
            (line, _) => return Ok(line.to_owned()),
        }
    }
}

/// Asks for a password, which is not shown.
fn ask_password(username: &str) -> anyhow::Result<String> {
    use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, tcgetattr, tcsetattr};

    ensure!(
        is_asked(),
        "give --password-file or --password-variable: there is no terminal to ask at"
    );
    let terminal = std::io::stdin();
    let before = tcgetattr(&terminal).context("cannot use the terminal")?;
    let mut hidden = before.clone();
    hidden.local_flags -= LocalFlags::ECHO | LocalFlags::ISIG;
    // Ctrl-C ends the line as Enter does, so that nothing leaves the terminal as it is now.
    hidden.control_chars[SpecialCharacterIndices::VEOL as usize] = CTRL_C;
    print(&format!("password of {username}: "))?;
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &hidden).context("cannot use the terminal")?;
    let mut line = String::new();
    let read = terminal.read_line(&mut line);
    tcsetattr(&terminal, SetArg::TCSAFLUSH, &before).context("cannot use the terminal")?;
    print("\n")?;
    read.context("cannot read the password")?;
    ensure!(
        !line.contains(char::from(CTRL_C)),
        "interrupted; nothing was written"
    );
    let password = line.trim_end_matches(['\n', '\r']);
    ensure!(!password.is_empty(), "there is no password");
    Ok(password.to_owned())
}

const CTRL_C: u8 = 3;
