//! Genetic codes and ORFs beside EMBOSS, k-mers beside jellyfish.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::{INTERPRETERS, lambda, lua_script, run};

/// Genetic codes whose start codons the NCBI extended after EMBOSS 6.6 was made.
const NEWER_STARTS: [u32; 2] = [3, 13];

/// Open reading frames as `id start stop strand protein`.
type Orfs = BTreeSet<(String, usize, usize, char, String)>;

fn orfs_of_getorf(fasta: &Path, table: u32, min_size: usize) -> Orfs {
    let text = run(
        Command::new("getorf")
            .arg("-sequence")
            .arg(fasta)
            .args(["-snucleotide1", "-find", "1", "-outseq", "stdout", "-auto"])
            .args([
                "-table",
                &table.to_string(),
                "-minsize",
                &min_size.to_string(),
            ]),
        "emboss",
    );
    text.split('>')
        .filter(|record| !record.trim().is_empty())
        .map(parse_getorf)
        .collect()
}

/// Reads one record: `ID_NUMBER [FROM - TO] (REVERSE SENSE) description`, then the protein.
fn parse_getorf(record: &str) -> (String, usize, usize, char, String) {
    let (header, protein) = record.split_once('\n').unwrap();
    let id = header
        .split_whitespace()
        .next()
        .unwrap()
        .rsplit_once('_')
        .unwrap()
        .0;
    let range = header.split_once('[').unwrap().1.split_once(']').unwrap().0;
    let (from, to) = range.split_once(" - ").unwrap();
    let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
    let strand = if header.contains("(REVERSE SENSE)") {
        '-'
    } else {
        '+'
    };
    let protein = protein.split_whitespace().collect();
    (id.to_owned(), from.min(to), from.max(to), strand, protein)
}

fn orfs_of_rock(
    interpreter: (&str, &str),
    fasta: &Path,
    table: u32,
    min_length: usize,
    starts: &str,
) -> Orfs {
    let arguments = [
        fasta.to_str().unwrap(),
        &table.to_string(),
        &min_length.to_string(),
        starts,
    ];
    let text = lua_script(interpreter, "orfs.lua", &arguments);
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [id, start, stop, strand, protein] = fields[..] else {
                panic!("unexpected line {line:?}");
            };
            let strand = strand.chars().next().unwrap();
            let (start, stop) = (start.parse().unwrap(), stop.parse().unwrap());
            (id.to_owned(), start, stop, strand, protein.to_owned())
        })
        .collect()
}

/// The first lines of what only one side has: enough to understand a failure.
fn difference<T: Ord + std::fmt::Debug>(rock: &BTreeSet<T>, tool: &BTreeSet<T>) -> String {
    let only_rock: Vec<_> = rock.difference(tool).take(3).collect();
    let only_tool: Vec<_> = tool.difference(rock).take(3).collect();
    format!(
        "rock has {}, tool has {}; only rock: {only_rock:?}; only tool: {only_tool:?}",
        rock.len(),
        tool.len(),
    )
}

/// The counts of all k-mers as `kmer count`, and the figures unique, distinct, total, max.
type Kmers = (BTreeSet<String>, [u64; 4]);

fn kmers_of_jellyfish(scratch: &Path, fasta: &Path, k: usize, canonical: bool) -> Kmers {
    let database = scratch.join("counts.jf");
    let mut count = Command::new("jellyfish");
    count
        .args(["count", "-s", "100k", "-m", &k.to_string()])
        .arg("-o")
        .arg(&database);
    if canonical {
        count.arg("-C");
    }
    run(count.arg(fasta), "jellyfish");
    let dump = run(
        Command::new("jellyfish")
            .args(["dump", "-c"])
            .arg(&database),
        "jellyfish",
    );
    let stats = run(
        Command::new("jellyfish").arg("stats").arg(&database),
        "jellyfish",
    );
    let figures = ["Unique:", "Distinct:", "Total:", "Max_count:"].map(|name| {
        let line = stats.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].trim().parse().unwrap()
    });
    (dump.lines().map(str::to_owned).collect(), figures)
}

fn kmers_of_rock(interpreter: (&str, &str), fasta: &Path, k: usize, canonical: bool) -> Kmers {
    let mode = if canonical { "canonical" } else { "plain" };
    let arguments = [fasta.to_str().unwrap(), &k.to_string(), mode];
    let text = lua_script(interpreter, "kmers.lua", &arguments);
    let (stats, counts) = text.split_once('\n').unwrap();
    let figures: Vec<u64> = stats
        .split(' ')
        .skip(1)
        .map(|figure| figure.parse().unwrap())
        .collect();
    (
        counts.lines().map(str::to_owned).collect(),
        figures.try_into().unwrap(),
    )
}

/// A linear congruential generator: the same sequences on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % limit as u64).unwrap()
    }

    fn pick(&mut self, letters: &str) -> char {
        char::from(letters.as_bytes()[self.below(letters.len())])
    }
}

/// Thirty sequences of differing length and composition, with lower-case stretches and with
/// `odd` letters, single and in runs.
fn random_fasta(scratch: &Path, seed: u64, odd: &str) -> PathBuf {
    let mut random = Random(seed);
    let mut text = String::new();
    for number in 1..=30 {
        let length = 40 + random.below(2_400);
        let bases = ["ACGT", "AACGTT", "ACCGGT", "AAAACGTTTT"][random.below(4)];
        let odd_in_thousand = [0, 3, 30][random.below(3)];
        let mut sequence = String::new();
        let mut lower = false;
        while sequence.len() < length {
            if random.below(200) == 0 {
                lower = !lower;
            }
            let run = if random.below(20) == 0 { 12 } else { 1 };
            let letter = if random.below(1_000) < odd_in_thousand {
                random.pick(odd).to_string().repeat(run)
            } else {
                random.pick(bases).to_string()
            };
            sequence.push_str(&if lower { letter.to_lowercase() } else { letter });
        }
        text.push_str(&format!(">r{number} random\n"));
        for line in sequence.as_bytes().chunks(61) {
            text.push_str(str::from_utf8(line).unwrap());
            text.push('\n');
        }
    }
    let path = scratch.join(format!("random-{seed}.fa"));
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn genetic_codes_equal_those_of_emboss() {
    let text = lua_script(("lua5.4", "lua5.4"), "codes.lua", &[]);
    let mut compared = 0;
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [id, letters, starts, stops] = fields[..] else {
            panic!("unexpected line {line:?}")
        };
        let id: u32 = id.parse().unwrap();
        if id > 23 {
            continue; // EMBOSS ends here; the spec of the rock lists the others.
        }
        let path = format!("/usr/share/EMBOSS/data/EGC.{id}");
        let table = fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("cannot read {path}: {error}: apt-get install -y emboss")
        });
        let row = |name: &str| {
            let row = table.lines().find(|line| line.starts_with(name)).unwrap();
            row.split_once('=').unwrap().1.trim().to_owned()
        };
        assert_eq!(letters, row("AAs"), "letters of code {id}");
        let emboss_stops: String = row("AAs")
            .chars()
            .map(|letter| if letter == '*' { '*' } else { '-' })
            .collect();
        assert_eq!(stops, emboss_stops, "stops of code {id}");
        if NEWER_STARTS.contains(&id) {
            let older = row("Starts");
            let kept = older.chars().zip(starts.chars());
            assert!(
                kept.clone().all(|(old, new)| old == '-' || new == 'M'),
                "starts of code {id}"
            );
            assert!(
                kept.clone().any(|(old, new)| old != new),
                "code {id} is no exception any more"
            );
        } else {
            assert_eq!(starts, row("Starts"), "starts of code {id}");
        }
        compared += 1;
    }
    assert_eq!(compared, 17);
}

#[test]
fn lambda_has_the_known_figures() {
    let scratch = tempfile::tempdir().unwrap();
    let fasta = lambda(scratch.path());
    let text = fs::read_to_string(&fasta).unwrap();
    let sequence: String = text.lines().filter(|line| !line.starts_with('>')).collect();
    let gc = sequence.chars().filter(|base| "GC".contains(*base)).count();
    let expected = format!(
        "{} {:.10}\n\
         records             1\n\
         length              48,502 bp\n\
         GC content          49.86 %\n\
         ORFs                67 (at least 300 nt, genetic code 11)\n\
         canonical 11-mers   46,289 unique, 47,379 distinct, 48,492 total, max count 3\n",
        sequence.len(),
        gc as f64 / sequence.len() as f64,
    );
    for interpreter in INTERPRETERS {
        let report = lua_script(interpreter, "summary.lua", &[fasta.to_str().unwrap()]);
        assert_eq!(report, expected, "{interpreter:?}");
    }
}

#[test]
fn orfs_of_lambda_equal_those_of_getorf() {
    let scratch = tempfile::tempdir().unwrap();
    let fasta = lambda(scratch.path());
    // EMBOSS's code 0 is the standard one with the start ATG alone. Its header shortens the id.
    for (emboss_table, table, starts) in [(0, 11, "ATG"), (1, 1, "table"), (11, 11, "table")] {
        for min_length in [30, 75, 300] {
            let tool = without_ids(orfs_of_getorf(&fasta, emboss_table, min_length));
            for interpreter in INTERPRETERS {
                let rock =
                    without_ids(orfs_of_rock(interpreter, &fasta, table, min_length, starts));
                assert!(
                    rock == tool,
                    "{interpreter:?}, code {table}, {starts}, {min_length} nt: {}",
                    difference(&rock, &tool),
                );
            }
        }
    }
    assert_eq!(orfs_of_getorf(&fasta, 0, 300).len(), 67);
    assert_eq!(orfs_of_getorf(&fasta, 11, 300).len(), 108);
}

fn without_ids(orfs: Orfs) -> Orfs {
    orfs.into_iter()
        .map(|(_, start, stop, strand, protein)| (String::new(), start, stop, strand, protein))
        .collect()
}

#[test]
fn orfs_of_random_sequences_equal_those_of_getorf() {
    let scratch = tempfile::tempdir().unwrap();
    // N alone: EMBOSS resolves codons with other ambiguity codes by rules of its own.
    let fasta = random_fasta(scratch.path(), 20_260_801, "N");
    let mut found = 0;
    let mut compare = |emboss_table, table, starts, min_length| {
        let tool = orfs_of_getorf(&fasta, emboss_table, min_length);
        found += tool.len();
        for interpreter in INTERPRETERS {
            let rock = orfs_of_rock(interpreter, &fasta, table, min_length, starts);
            assert!(
                rock == tool,
                "{interpreter:?}, code {table}, {starts}, {min_length} nt: {}",
                difference(&rock, &tool),
            );
        }
    };
    for min_length in [6, 30, 60, 99, 150, 300] {
        compare(0, 1, "ATG", min_length);
        compare(11, 11, "table", min_length);
    }
    for table in [1, 2, 4, 5, 6, 9, 10, 12, 14, 15, 16, 21, 22, 23] {
        compare(table, table, "table", 45);
    }
    assert!(found > 5_000, "too few ORFs to mean anything: {found}");
}

#[test]
fn kmers_of_lambda_equal_those_of_jellyfish() {
    let scratch = tempfile::tempdir().unwrap();
    let fasta = lambda(scratch.path());
    for k in [11, 21, 31] {
        let tool = kmers_of_jellyfish(scratch.path(), &fasta, k, true);
        for interpreter in INTERPRETERS {
            let rock = kmers_of_rock(interpreter, &fasta, k, true);
            assert_eq!(rock.1, tool.1, "{interpreter:?}, k = {k}");
            assert!(
                rock.0 == tool.0,
                "{interpreter:?}, k = {k}: {}",
                difference(&rock.0, &tool.0)
            );
        }
        if k == 11 {
            assert_eq!(tool.1, [46_289, 47_379, 48_492, 3]);
        }
    }
}

#[test]
fn kmers_of_random_sequences_equal_those_of_jellyfish() {
    let scratch = tempfile::tempdir().unwrap();
    let fasta = random_fasta(scratch.path(), 20_260_802, "NRYSWKMBDHV");
    for k in [2, 5, 11, 16, 21, 25, 26, 27, 31, 40] {
        for canonical in [true, false] {
            let tool = kmers_of_jellyfish(scratch.path(), &fasta, k, canonical);
            for interpreter in INTERPRETERS {
                let rock = kmers_of_rock(interpreter, &fasta, k, canonical);
                let place = format!("{interpreter:?}, k = {k}, canonical = {canonical}");
                assert_eq!(rock.1, tool.1, "{place}");
                assert!(
                    rock.0 == tool.0,
                    "{place}: {}",
                    difference(&rock.0, &tool.0)
                );
            }
        }
    }
}
