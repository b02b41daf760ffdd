//! `bioxen config init`: the settings of a pool come into being. Everything is asked for and tried before
//! anything is written.

mod ask;
mod file;
mod import;
mod trust;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use bioxen_vm_xcpng::Fingerprint;
use serde_json::{Value, json};
use toml_edit::{DocumentMut, Table, value};

use super::interrupt::{Interrupted, Interrupts};
use super::{Place, doctor, print, warn};
use crate::settings::{Settings, joined};
use ask::Person;
use file::{heading, keep, open, save, set_table, table};
use import::Imported;

pub(super) use trust::{Trust, trust};

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

    /// Who runs programs in the VMs: root, unless the template wants another
    #[arg(long, value_name = "NAME")]
    ssh_user: Option<String>,

    /// Where the SSH server of the VMs listens: 22, unless the template wants another
    #[arg(long, value_name = "PORT")]
    ssh_port: Option<u16>,

    /// The SHA-256 fingerprint of the host's certificate, as you know it from the host itself; asked
    /// for at a terminal, unless an authority that this machine trusts has signed the certificate
    #[arg(long)]
    fingerprint: Option<Fingerprint>,

    /// An xcpng_config.json or bioxen_config.json of the earlier programs to take settings from; of
    /// several pools in it, that of --host
    #[arg(long, value_name = "FILE")]
    import: Option<PathBuf>,

    /// Replace the settings of the pool that are there already
    #[arg(long)]
    force: bool,

    /// Write the file without looking whether the pool can be used
    #[arg(long)]
    no_test: bool,

    /// Print JSON, one object to a line, and ask nothing
    #[arg(long)]
    json: bool,
}

/// Until all is written, nothing is.
pub(super) async fn init(args: Init, settings: Settings, place: Place) -> anyhow::Result<ExitCode> {
    match Box::pin(set_up(args, settings, place)).await {
        Err(error) => match error.downcast_ref::<Interrupted>() {
            Some(interrupted) => {
                warn(&format!("{interrupted}; nothing was written"));
                Ok(ExitCode::from(interrupted.exit_code()))
            }
            None => Err(error),
        },
        done => done,
    }
}

async fn set_up(args: Init, settings: Settings, place: Place) -> anyhow::Result<ExitCode> {
    let interrupts = Interrupts::listen()?;
    let person = Person::unless(args.json);
    let (json, is_tested) = (args.json, !args.no_test);
    let draft = interrupts.unless(Draft::of(args, person, &place)).await??;
    if is_tested {
        let tested = draft.test(settings, &place, json).await?;
        // The test itself ended in order.
        interrupts.unless(std::future::ready(())).await?;
        if tested != ExitCode::SUCCESS {
            let asked = person.agrees("--no-test", "write it all the same?");
            let is_wanted = person.is_there() && interrupts.unless(asked).await??;
            if !is_wanted {
                warn(
                    "nothing was written; correct what has failed, or write it all the same with \
                     --no-test",
                );
                return Ok(tested);
            }
        }
    }
    let password_file = draft.write(person, &place)?;
    if json {
        let written = json!({
            "file": draft.file.display().to_string(), "table": heading(&place),
            "password_file": password_file.map(|path| path.display().to_string()),
            "fingerprint": draft.pin.map(|pin| pin.to_string()), "tested": is_tested,
        });
        print(&format!("{written}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the password is, or that it is to be kept.
enum Password {
    File(PathBuf),
    Variable(String),
    New(String),
}

/// What is to be written.
struct Draft {
    file: PathBuf,
    document: DocumentMut,
    table: Table,
    password: Password,
    pin: Option<Fingerprint>,
    /// The password file of the settings that are replaced.
    replaced: Option<String>,
}

impl Draft {
    /// Puts together what options, an older file and answers say.
    async fn of(args: Init, person: Person, place: &Place) -> anyhow::Result<Self> {
        let (file, mut document) = open(place)?;
        let known = table(&mut document, place);
        ensure!(
            known.is_none() || args.force,
            "{} has a table [{}] already; edit it, replace it with --force, or name another pool with \
             --pool",
            file.display(),
            heading(place)
        );
        let replaced = known.and_then(|table| table.get("password_file")?.as_str());
        let replaced = replaced.map(str::to_owned);
        let mut old = match &args.import {
            Some(path) => Imported::read(path, args.host.as_deref())?,
            None => Imported::default(),
        };
        // An older file of several pools has told which host that is.
        let (host, password) = (old.take("xcpng_host"), old.take("password"));
        let host = match (args.host, host) {
            (Some(_), Some(host)) if old.is_one_of_several() => host,
            (Some(host), _) | (None, Some(host)) => host,
            (None, None) => {
                let what = "host name or address of the pool";
                person.ask("--host", what, None).await?
            }
        };
        let password = given(args.password_file, args.password_variable, password)?;
        ensure!(
            password.is_some() || person.is_there(),
            "give --password-file or --password-variable: there is no terminal to ask at"
        );
        // Whoever is not reached, or not trusted, is told no password.
        let pin = trust::to_pin(person, &host, args.fingerprint).await?;
        let asked =
            async |given: Option<String>, old: Option<String>, [option, what, usual]: [_; 3]| {
                match given.or(old) {
                    Some(given) => Ok(given),
                    None => person.ask(option, what, Some(usual)).await,
                }
            };
        let username = ["--username", "user of the pool", "root"];
        let username = asked(args.username, old.take("username"), username).await?;
        let template = ["--template", "template", "lua-bio-template"];
        let template = asked(args.template, old.take("template"), template).await?;
        let user = ["--ssh-user", "user in the VMs", USER];
        let user = asked(args.ssh_user, old.take("ssh.user"), user).await?;
        let port = args.ssh_port.map(|port| port.to_string());
        let what = ["--ssh-port", "port of their SSH server", PORT];
        let port = asked(port, old.take("ssh.port"), what).await?;
        let port: u16 = port.parse().context("the port is no number below 65536")?;
        let password = match password {
            Some(password) => password,
            None => Password::New(person.ask_password(&username).await?),
        };

        let mut table = Table::new();
        table["xcpng_host"] = value(&host);
        table["username"] = value(username);
        table["template"] = value(template);
        for (key, known) in old.rest() {
            let Some(known) = item(&known) else { continue };
            match key.split_once('.') {
                Some((outer, key)) => table[outer][key] = known,
                None => table[&key] = known,
            }
        }
        if user != USER {
            table["ssh"]["user"] = value(user);
        }
        if port.to_string() != PORT {
            table["ssh"]["port"] = value(i64::from(port));
        }
        if let Some(pin) = pin {
            table["tls"]["fingerprint"] = value(pin.to_string());
        }
        match &password {
            Password::File(path) => table["password_file"] = value(path.display().to_string()),
            Password::Variable(name) => table["password_variable"] = value(name),
            Password::New(_) => {}
        }
        Ok(Self {
            file,
            document,
            table,
            password,
            pin,
            replaced,
        })
    }

    /// Looks whether the pool can be used like that. What the doctor says is on standard output.
    async fn test(
        &self,
        mut settings: Settings,
        place: &Place,
        json: bool,
    ) -> anyhow::Result<ExitCode> {
        let mut document = self.document.clone();
        set_table(&mut document, place, self.table.clone());
        let text = document.to_string();
        let wrong = settings.read_text(&text, &self.file, place.pool.as_deref());
        ensure!(wrong.is_empty(), "{}; nothing was written", joined(&wrong));
        // It is in no file yet.
        let password = match &self.password {
            Password::New(password) => Some(format!("password={password}")),
            _ => None,
        };
        doctor::run_with(doctor::Args::without_vm(json), password, settings).await
    }

    /// Writes it, and gives the file that the password went to.
    fn write(&self, person: Person, place: &Place) -> anyhow::Result<Option<PathBuf>> {
        let (mut document, mut table) = (self.document.clone(), self.table.clone());
        let kept = match &self.password {
            Password::New(password) => {
                let kept = keep(&self.file, place, self.replaced.as_deref(), password)?;
                table["password_file"] = value(&kept.name);
                Some(kept)
            }
            _ => None,
        };
        set_table(&mut document, place, table);
        if let Err(error) = save(&self.file, &document) {
            if let Some(kept) = &kept {
                kept.undo();
            }
            return Err(error);
        }
        let path = kept.map(|kept| kept.path().to_owned());
        if let Some(path) = &path {
            person.tell(&format!("wrote the password to {}\n", path.display()))?;
        }
        person.tell(&format!(
            "wrote [{}] to {}\n",
            heading(place),
            self.file.display()
        ))?;
        Ok(path)
    }
}

/// What settings say that do not say it.
const USER: &str = "root";
const PORT: &str = "22";

/// The password that options or an older file tell of.
fn given(
    file: Option<PathBuf>,
    variable: Option<String>,
    old: Option<String>,
) -> anyhow::Result<Option<Password>> {
    Ok(match (file, variable, old) {
        // What is no file, a pipe of the shell for example, is gone when settings are read.
        (Some(path), ..) if path.metadata().is_ok_and(|known| !known.is_file()) => {
            Some(Password::New(first_line(&path)?))
        }
        (Some(path), ..) => Some(Password::File(std::path::absolute(path)?)),
        (_, Some(name), _) => Some(Password::Variable(name)),
        (.., Some(password)) => Some(Password::New(password)),
        _ => None,
    })
}

fn first_line(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the password from {}", path.display()))?;
    let line = text.lines().next().unwrap_or_default();
    ensure!(!line.is_empty(), "{} has no password", path.display());
    Ok(line.to_owned())
}

/// A value of JSON as one of TOML, if there is one.
fn item(known: &Value) -> Option<toml_edit::Item> {
    let known = toml::Value::try_from(known).ok()?;
    let text = known.to_string();
    text.parse::<toml_edit::Value>().ok().map(value)
}
