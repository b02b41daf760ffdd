//! The steps of the workflow: two runs over reads, gathered by Lua, and the report of both.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use bioxen::map::{Format, Input, Map, MapEvent, Mapped, Shards};
use bioxen::{Script, Value, VmManager};

use crate::{page, report};
use report::Report;

const READS: &str = include_str!("reads.lua");
const GATHER: &str = include_str!("gather.lua");
/// Where the VMs have the genome.
const GENOME: &str = "genome.fa";

/// Shards of a run, whatever the number of VMs.
const SHARDS: u64 = 8;

/// The files that are analysed.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    /// One sequence in FASTA.
    pub(crate) genome: PathBuf,
    /// Read 1 and read 2 of pairs in FASTQ.
    pub(crate) pairs: [PathBuf; 2],
    /// Long reads in FASTQ.
    pub(crate) long: PathBuf,
}

impl Data {
    /// The files of phage lambda that `make data` puts into a folder.
    pub(crate) fn of(folder: &Path) -> Self {
        Self {
            genome: folder.join("lambda_virus.fa"),
            pairs: [folder.join("reads_1.fq"), folder.join("reads_2.fq")],
            long: folder.join("longreads.fq"),
        }
    }
}

/// The VMs that do the work.
#[derive(Debug, Clone)]
pub(crate) struct Vms {
    pub(crate) vm_type: String,
    pub(crate) config: Value,
    pub(crate) count: usize,
}

/// Analyses the data and writes `report.json`, tables and `report.html` into a folder, with
/// `times.txt`, which is the only file that differs from run to run. What a run that was ended has
/// done is not done again.
pub(crate) async fn run(
    manager: &Arc<VmManager>,
    data: &Data,
    vms: &Vms,
    out: &Path,
    hear: impl Fn(&Map),
) -> anyhow::Result<Report> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let [first, second] = &data.pairs;
    let pairs = Input::paired(first, second, Format::Fastq);
    let pairs = step("pairs", pairs, data, vms, out)?;
    hear(&pairs);
    let pairs = pairs.run(manager).await?;
    let long = Input::new([&data.long], Format::Fastq);
    let long = step("single", long, data, vms, out)?;
    hear(&long);
    let long = long.run(manager).await?;

    let report = Report::new(data, &pairs, &long)?;
    report.write(out)?;
    let html = page::page(&report);
    report::write(&out.join("report.html"), html.as_bytes())?;
    let times = format!("pairs\n{}\n\nlong reads\n{}\n", pairs.times, long.times);
    report::write(&out.join("times.txt"), times.as_bytes())?;
    Ok(report)
}

/// One run over reads.
fn step(kind: &str, input: Input, data: &Data, vms: &Vms, out: &Path) -> anyhow::Result<Map> {
    let script = |code: &'static str, name: &str| {
        Script::new(code)
            .with_name(name)
            .arg(kind.to_owned())
            .arg(GENOME)
    };
    Ok(Map::new(script(READS, "reads.lua"), input)
        .on(&vms.vm_type, vms.config.clone(), vms.count)
        .with_name(format!("phage-{kind}"))
        .with_shards(Shards::Count(SHARDS))
        .with_rocks(
            ["bio_sequence_analysis".parse()?],
            [bioxen::rocks::server()?],
        )
        .with_file(&data.genome, GENOME)
        .with_reduce(script(GATHER, "gather.lua"))
        .in_folder(out.join(kind), true))
}

/// What a run returned, as the report has it.
pub(crate) fn value(mapped: &Mapped) -> anyhow::Result<Value> {
    Ok(mapped.value.to_json()?)
}

/// An event for people, where it is worth a line.
pub(crate) fn line(event: &MapEvent) -> Option<String> {
    match event {
        MapEvent::Started { .. } => None,
        event => Some(event.to_string()),
    }
}
