//! The figures of the workflow, as JSON and as tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use bioxen::map::Mapped;
use serde::{Deserialize, Serialize};

use crate::workflow::{Data, value};

/// Everything that the page shows.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) inputs: Vec<String>,
    pub(crate) genome: Genome,
    /// Read 1, read 2, long reads.
    pub(crate) reads: Vec<Reads>,
    pub(crate) trimmed: BTreeMap<String, u64>,
    pub(crate) kmers: Kmers,
    pub(crate) orfs: Vec<Orf>,
    pub(crate) placed: Placed,
    pub(crate) coverage: Coverage,
    pub(crate) variants: Vec<Variant>,
    /// Per base of the genome; in coverage.tsv.
    #[serde(skip)]
    pub(crate) depth: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Genome {
    pub(crate) id: String,
    pub(crate) length: u64,
    pub(crate) gc: f64,
    pub(crate) kmers: KmerFigures,
}

#[derive(Debug, Serialize)]
pub(crate) struct Reads {
    pub(crate) name: &'static str,
    #[serde(flatten)]
    pub(crate) quality: Quality,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Quality {
    pub(crate) reads: u64,
    pub(crate) bases: u64,
    pub(crate) min_length: u64,
    pub(crate) mean_length: f64,
    pub(crate) max_length: u64,
    pub(crate) n50: u64,
    pub(crate) q20: f64,
    pub(crate) q30: f64,
    pub(crate) mean_quality: f64,
    pub(crate) gc_of_all: f64,
    pub(crate) n: f64,
    pub(crate) positions: Vec<Position>,
}

/// The qualities at one position of the reads.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) bases: u64,
    pub(crate) mean: f64,
    pub(crate) low: f64,
    pub(crate) q1: f64,
    pub(crate) median: f64,
    pub(crate) q3: f64,
    pub(crate) high: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KmerFigures {
    pub(crate) k: u64,
    pub(crate) unique: u64,
    pub(crate) distinct: u64,
    pub(crate) total: u64,
    pub(crate) max: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Kmers {
    #[serde(flatten)]
    pub(crate) figures: KmerFigures,
    /// How many k-mers occur so many times.
    pub(crate) spectrum: Vec<(u64, u64)>,
    pub(crate) genome_size: Option<GenomeSize>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GenomeSize {
    pub(crate) length: f64,
    pub(crate) depth: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orf {
    pub(crate) start: u64,
    pub(crate) stop: u64,
    pub(crate) strand: String,
    pub(crate) frame: i64,
    pub(crate) length: u64,
    pub(crate) complete: bool,
    pub(crate) protein: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) reads: u64,
    pub(crate) placed: u64,
    pub(crate) forward: u64,
    pub(crate) reverse: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Coverage {
    pub(crate) mean: f64,
    pub(crate) max: u64,
    pub(crate) uncovered: u64,
    pub(crate) breadth: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Variant {
    pub(crate) position: u64,
    #[serde(rename = "ref")]
    pub(crate) reference: String,
    pub(crate) alt: String,
    pub(crate) depth: u64,
    pub(crate) count: u64,
    pub(crate) forward: u64,
    pub(crate) reverse: u64,
    pub(crate) fraction: f64,
    pub(crate) quality: f64,
}

/// What gather.lua returns for pairs.
#[derive(Deserialize)]
struct OfPairs {
    genome: Genome,
    quality: Vec<Quality>,
    trimmed: BTreeMap<String, u64>,
    kmers: Kmers,
    orfs: Vec<Orf>,
    placed: Placed,
    coverage: Coverage,
    variants: Vec<Variant>,
    depth: Vec<u64>,
}

/// What it returns for other reads.
#[derive(Deserialize)]
struct OfSingle {
    quality: Vec<Quality>,
}

impl Report {
    pub(crate) fn new(data: &Data, pairs: &Mapped, long: &Mapped) -> anyhow::Result<Self> {
        const NOT_OURS: &str = "gather.lua returned something else than the report has";
        let pairs: OfPairs = serde_json::from_value(value(pairs)?).context(NOT_OURS)?;
        let long: OfSingle = serde_json::from_value(value(long)?).context(NOT_OURS)?;
        let inputs = [&data.genome, &data.pairs[0], &data.pairs[1], &data.long];
        let inputs = inputs.map(|path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        });
        let qualities = pairs.quality.into_iter().chain(long.quality);
        let reads = ["read 1", "read 2", "long reads"]
            .into_iter()
            .zip(qualities);
        Ok(Self {
            inputs: inputs.into(),
            genome: pairs.genome,
            reads: reads
                .map(|(name, quality)| Reads { name, quality })
                .collect(),
            trimmed: pairs.trimmed,
            kmers: pairs.kmers,
            orfs: pairs.orfs,
            placed: pairs.placed,
            coverage: pairs.coverage,
            variants: pairs.variants,
            depth: pairs.depth,
        })
    }

    /// The least that one wants to know.
    pub(crate) fn summary(&self) -> String {
        let pairs = self.trimmed.get("read").copied().unwrap_or(0);
        let kept = self.trimmed.get("kept").copied().unwrap_or(0);
        format!(
            "{}: {kept} of {pairs} pairs kept, {} of their {} reads placed, mean depth {:.2}, {} bases \
             without a read, {} ORFs, {} variants",
            self.genome.id,
            self.placed.placed,
            self.placed.reads,
            self.coverage.mean,
            self.coverage.uncovered,
            self.orfs.len(),
            self.variants.len(),
        )
    }

    /// Writes the report as JSON and its tables as TSV.
    pub(crate) fn write(&self, out: &Path) -> anyhow::Result<()> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        write(&out.join("report.json"), &json)?;
        for (name, table) in [
            ("reads.tsv", self.reads_table()),
            ("kmers.tsv", self.kmers_table()),
            ("orfs.tsv", self.orfs_table()),
            ("coverage.tsv", self.coverage_table()),
            ("variants.tsv", self.variants_table()),
        ] {
            write(&out.join(name), table.as_bytes())?;
        }
        Ok(())
    }

    fn reads_table(&self) -> String {
        let mut table =
            "reads\tcount\tbases\tmin_length\tmean_length\tmax_length\tn50\tq20\tq30\tgc\n"
                .to_owned();
        for Reads { name, quality: q } in &self.reads {
            let _ = writeln!(
                table,
                "{name}\t{}\t{}\t{}\t{:.1}\t{}\t{}\t{:.2}\t{:.2}\t{:.2}",
                q.reads,
                q.bases,
                q.min_length,
                q.mean_length,
                q.max_length,
                q.n50,
                q.q20 * 100.0,
                q.q30 * 100.0,
                q.gc_of_all * 100.0
            );
        }
        table
    }

    fn kmers_table(&self) -> String {
        let mut table = "times\tkmers\n".to_owned();
        for (times, kmers) in &self.kmers.spectrum {
            let _ = writeln!(table, "{times}\t{kmers}");
        }
        table
    }

    fn orfs_table(&self) -> String {
        let mut table = "start\tstop\tstrand\tframe\tlength\tcomplete\tprotein\n".to_owned();
        for orf in &self.orfs {
            let _ = writeln!(
                table,
                "{}\t{}\t{}\t{}\t{}\t{}\t{}",
                orf.start, orf.stop, orf.strand, orf.frame, orf.length, orf.complete, orf.protein
            );
        }
        table
    }

    fn coverage_table(&self) -> String {
        let mut table = "position\tdepth\n".to_owned();
        for (index, depth) in self.depth.iter().enumerate() {
            let _ = writeln!(table, "{}\t{depth}", index + 1);
        }
        table
    }

    fn variants_table(&self) -> String {
        let mut table =
            "position\tref\talt\tdepth\tcount\tforward\treverse\tfraction\tquality\n".to_owned();
        for v in &self.variants {
            let _ = writeln!(
                table,
                "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{:.3}\t{:.0}",
                v.position,
                v.reference,
                v.alt,
                v.depth,
                v.count,
                v.forward,
                v.reverse,
                v.fraction,
                v.quality
            );
        }
        table
    }
}

pub(crate) fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}
