//! `bioxen template`: makes templates for VMs, and says what one lacks.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use bioxen_curator::{Curator, RockRequest};
use bioxen_vm_core::BackendConfig as _;
use bioxen_vm_xcpng::{TemplateBuild, TemplateBuilder, XcpngConfig};
use clap::Subcommand;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use serde_json::json;

use super::interrupt::Interrupts;
use super::own_rocks::OwnRocks;
use super::table::Table;
use super::telemetry::say;
use super::vms::{Common, on_pool, pool, to_the_end};
use super::waiting::{doing, installing};
use super::{config, doctor, print, warn};
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a template from another one, or from the image of a disk
    Build(Build),
    /// Say what a template lacks: makes a VM of it, looks into it and removes it again
    Check(Check),
    /// List the templates of a pool
    Ls(List),
    /// Remove a template with its disks; VMs that were made from it stay
    Rm(Remove),
}

#[derive(Debug, clap::Args)]
struct Build {
    /// The template to begin with, by name or UUID; by default that of the configuration
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "image")]
    from: Option<String>,

    /// The image of a disk to begin with, raw or VHD, with cloud-init in it
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,

    /// What the template is called
    #[arg(long, value_name = "NAME", default_value = "lua-bio-template")]
    name: String,

    /// Install the rocks of the sources in this folder, instead of those that come with this program;
    /// `--rocks ""` for none
    // The usual parser of paths refuses none.
    #[arg(long, value_name = "FOLDER", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    rocks: Option<PathBuf>,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Check {
    /// The template, by name or UUID; by default that of the configuration
    #[arg(value_name = "TEMPLATE")]
    template: Option<String>,

    #[command(flatten)]
    looking: doctor::Args,
}

#[derive(Debug, clap::Args)]
struct List {
    /// Also those that the pool brought along, which have no disks
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Remove {
    /// The template, by name or UUID
    #[arg(value_name = "TEMPLATE")]
    template: String,

    /// Also one that BioXen has not made
    #[arg(long)]
    foreign: bool,

    #[command(flatten)]
    common: Common,
}

pub(super) async fn run(args: Args, settings: Settings) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Build(args) => build(args, settings).await,
        Action::Ls(args) => list(args, settings).await,
        Action::Rm(args) => remove(args, settings).await,
        Action::Check(Check { template, looking }) => {
            let template = template.map(|name| format!("template={name}"));
            doctor::run_with(looking, template, settings).await
        }
    }
}

async fn build(args: Build, mut settings: Settings) -> anyhow::Result<ExitCode> {
    for assignment in args.common.settings() {
        settings.set(XcpngConfig::VM_TYPE, assignment)?;
    }
    if let Some(base) = &args.from {
        settings.set(XcpngConfig::VM_TYPE, &format!("template={base}"))?;
    } else if args.image.is_some() {
        settings.set(XcpngConfig::VM_TYPE, "template=(image)")?;
    }
    let rocks = match args.rocks.as_deref() {
        Some(none) if none.as_os_str().is_empty() => None,
        folder => Some(OwnRocks::of(folder).await?),
    };
    let config = config(&settings, XcpngConfig::VM_TYPE)?;
    let mut builder = TemplateBuilder::new(XcpngConfig::from_value(config)?).named(&args.name);
    if let Some(image) = &args.image {
        builder = builder.from_image(image);
    }
    let interrupts = Interrupts::listen()?;
    let tell = |text: &str| match args.common.json() {
        true => {
            say("INFO", &format!("bioxen: {text}"));
            Ok(())
        }
        false => print(&format!("{text}\n")),
    };
    if let Ok(fit) = interrupts.unless(builder.check()).await {
        fit?;
    }
    tell("making a VM and installing in it what is missing")?;
    // What was begun must be ended in order, so it is not simply dropped.
    let mut begun = tokio::spawn(builder.begin());
    let begun = async {
        match interrupts.unless(&mut begun).await {
            Ok(begun) => begun,
            Err(_) => {
                warn("ends, and removes the VM, as soon as what is being installed is");
                begun.await
            }
        }
    };
    let begun = doing("installing", begun).await;
    let build = begun.context("the build broke")??;
    match build.installed() {
        [] => tell("everything was installed already")?,
        installed => tell(&format!("installed {}", installed.join(", ")))?,
    }
    if !build.has_guest_tools() {
        warn(
            "the VM has no guest tools, and its package manager has none: VMs of the template need \
             static_address until they are installed from the pool's guest tools ISO",
        );
    }
    let installing = async {
        match &rocks {
            Some(rocks) => tell(&install_rocks(&build, rocks).await?),
            None => Ok(()),
        }
    };
    match interrupts.unless(installing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            give_up(build).await;
            return Err(error);
        }
        Err(interrupted) => {
            give_up(build).await;
            return Ok(ExitCode::from(interrupted.exit_code()));
        }
    }
    tell("turning it into a template")?;
    let (installed, tools) = (build.installed().to_vec(), build.has_guest_tools());
    let template = doing("stopping it", build.finish()).await?;
    for left in &template.left {
        warn(&format!(
            "{left} could not be removed, so all VMs of the template share it"
        ));
    }
    let (name, uuid) = (template.name, template.uuid);
    print(&match args.common.json() {
        true => {
            let made = json!({
                "name": name, "uuid": uuid, "installed": installed, "guest_tools": tools,
                "shared": template.left,
            });
            format!("{made}\n")
        }
        false => format!("made {name} ({uuid})\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn list(args: List, settings: Settings) -> anyhow::Result<ExitCode> {
    let pool = pool(&args.common, settings)?;
    on_pool(pool, async |pool| {
        let mut templates = pool.templates().await?;
        templates.retain(|template| args.all || !template.built_in);
        if args.common.json() {
            for template in &templates {
                let json = serde_json::to_string(template).context("cannot write JSON")?;
                print(&format!("{json}\n"))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = Table::new(["TEMPLATE", "MADE BY", "FIRST CONTACT", "UUID"]);
        for template in templates {
            let made_by = match (template.ours, template.built_in) {
                (true, _) => "bioxen",
                (false, true) => "the pool",
                (false, false) => "somebody else",
            };
            table.row([
                template.name,
                made_by.to_owned(),
                template.first_contact.unwrap_or_default(),
                template.uuid,
            ]);
        }
        table.print()?;
        Ok(ExitCode::SUCCESS)
    })
    .await
}

async fn remove(args: Remove, settings: Settings) -> anyhow::Result<ExitCode> {
    let pool = pool(&args.common, settings)?;
    let work = on_pool(pool, async |pool| {
        let gone = pool.remove_template(&args.template, args.foreign).await?;
        let (name, uuid) = (gone.name, gone.uuid);
        match args.common.json() {
            true => print(&format!("{}\n", json!({"name": name, "uuid": uuid})))?,
            false => print(&format!("removed {name} ({uuid})\n"))?,
        }
        Ok(ExitCode::SUCCESS)
    });
    to_the_end(work).await
}

async fn give_up(build: TemplateBuild) {
    if let Err(error) = build.abandon().await {
        warn(&format!("{:#}", anyhow::Error::from(error)));
    }
}

async fn install_rocks(build: &TemplateBuild, own: &OwnRocks) -> anyhow::Result<String> {
    let site = build.package_site().await?;
    let curator = Curator::new(site).with_servers([own.server.clone()]);
    let requests: Vec<_> = own.rocks.iter().cloned().map(RockRequest::from).collect();
    let report = installing(&curator, curator.install(&requests)).await?;
    Ok(report.to_string())
}
