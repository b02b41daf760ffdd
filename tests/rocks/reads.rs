//! Reads: FASTQ beside Biopython's own test files, quality control beside seqkit, trimming beside
//! cutadapt and fastp, placement, coverage and variants beside bowtie2, samtools and bcftools.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::{INTERPRETERS, biopython_file, lambda, lua_script, reads, run};

/// The interpreters that a user of large data takes; the specs run on all.
const FAST: [(&str, &str); 2] = [("lua5.4", "lua5.4"), ("luajit", "luajit")];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn quality_files(matches: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(biopython_file("Quality"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| matches(path.file_name().unwrap().to_str().unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn fastq_that_biopython_refuses_is_refused_with_file_record_and_line() {
    let files = quality_files(|name| name.starts_with("error_") && name.ends_with(".fastq"));
    assert_eq!(files.len(), 22);
    let arguments: Vec<&str> = ["refused"]
        .into_iter()
        .chain(files.iter().map(|path| text(path)))
        .collect();
    for interpreter in INTERPRETERS {
        let refusals = lua_script(interpreter, "reads.lua", &arguments);
        let refusals: Vec<&str> = refusals.lines().collect();
        assert_eq!(
            refusals.len(),
            files.len(),
            "{interpreter:?}: {refusals:#?}"
        );
        for (refusal, file) in refusals.iter().zip(&files) {
            let place = format!("{}: record ", file.display());
            assert!(
                refusal.starts_with(&place) && refusal.contains(", line "),
                "{refusal}"
            );
        }
    }
}

#[test]
fn fastq_converts_between_variants_to_the_bytes_of_biopython() {
    let mut converted = 0;
    for original in quality_files(|name| name.contains("_original_")) {
        let name = text(&original);
        let (stem, variant) = name
            .trim_end_matches(".fastq")
            .split_once("_original_")
            .unwrap();
        for target in ["sanger", "solexa", "illumina"] {
            let expected = fs::read_to_string(format!("{stem}_as_{target}.fastq")).unwrap();
            for interpreter in INTERPRETERS {
                let ours = lua_script(
                    interpreter,
                    "reads.lua",
                    &["convert", name, variant, target],
                );
                assert!(ours == expected, "{name} as {target} by {interpreter:?}");
            }
            converted += 1;
        }
    }
    assert_eq!(converted, 21);
}

#[test]
fn compressed_fastq_reads_as_plain() {
    let plain = fs::read_to_string(biopython_file("Quality/example.fastq")).unwrap();
    for (name, dos) in [
        ("example.fastq.gz", false),
        ("example.fastq.bgz", false),
        ("example_dos.fastq.bgz", true),
    ] {
        let file = biopython_file("Quality").join(name);
        for interpreter in INTERPRETERS {
            let ours = lua_script(
                interpreter,
                "reads.lua",
                &["convert", text(&file), "sanger", "sanger"],
            );
            assert!(
                ours == plain.replace("\r\n", "\n"),
                "{name} (DOS: {dos}) by {interpreter:?}"
            );
        }
    }
}

#[test]
fn quality_figures_equal_those_of_seqkit() {
    let scratch = tempfile::tempdir().unwrap();
    let first = fs::read_to_string(reads("reads_1.fq")).unwrap();
    let mut files = vec![reads("reads_1.fq"), reads("longreads.fq")];
    // Odd and even numbers of reads, for the quartiles. Of one read seqkit halves them.
    for count in [2, 3, 4, 5, 6, 7] {
        let file = scratch.path().join(format!("{count}.fq"));
        let lines: Vec<&str> = first.lines().take(4 * count).collect();
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        files.push(file);
    }
    let table = run(
        Command::new("seqkit").args(["stats", "-aT"]).args(&files),
        "seqkit",
    );
    let expected: Vec<String> = table
        .lines()
        .skip(1)
        .map(|line| line.split('\t').skip(3).collect::<Vec<_>>().join(" "))
        .collect();
    let arguments: Vec<&str> = ["stats"]
        .into_iter()
        .chain(files.iter().map(|path| text(path)))
        .collect();
    for interpreter in INTERPRETERS {
        let figures = lua_script(interpreter, "reads.lua", &arguments);
        assert_eq!(
            figures.lines().collect::<Vec<_>>(),
            expected,
            "{interpreter:?}"
        );
    }
}

#[test]
fn kmers_of_reads_equal_those_of_jellyfish() {
    let scratch = tempfile::tempdir().unwrap();
    let (database, first) = (scratch.path().join("counts.jf"), reads("reads_1.fq"));
    let mut count = Command::new("jellyfish");
    count
        .args(["count", "-C", "-s", "1M", "-m", "21", "-o"])
        .arg(&database)
        .arg(&first);
    run(&mut count, "jellyfish");
    let stats = run(
        Command::new("jellyfish").arg("stats").arg(&database),
        "jellyfish",
    );
    let figures: Vec<&str> = stats
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap())
        .collect();
    for interpreter in FAST {
        let ours = lua_script(interpreter, "reads.lua", &["kmers", text(&first), "21"]);
        assert_eq!(ours.trim(), figures.join(" "), "{interpreter:?}");
    }
}

#[test]
fn reads_are_trimmed_as_cutadapt_and_fastp_trim_them() {
    let scratch = tempfile::tempdir().unwrap();
    let (first, second) = (reads("reads_1.fq"), reads("reads_2.fq"));
    let out = |name: &str| scratch.path().join(name);
    let cutadapt = run(
        Command::new("cutadapt")
            .args(["--quiet", "-q", "20", "-m", "30"])
            .arg(&first),
        "cutadapt",
    );
    let fastp = |arguments: &[&str], files: &[&str]| {
        run(
            Command::new("fastp")
                .args([
                    "-A",
                    "-G",
                    "-Q",
                    "--dont_eval_duplication",
                    "--cut_right",
                    "--cut_right_window_size",
                    "4",
                ])
                .args([
                    "--cut_right_mean_quality",
                    "15",
                    "-j",
                    "/dev/null",
                    "-h",
                    "/dev/null",
                ])
                .args(arguments)
                .args(files),
            "fastp",
        )
    };
    let windowed = out("fastp.fq");
    fastp(&["-l", "20"], &["-i", text(&first), "-o", text(&windowed)]);
    let windowed = fs::read_to_string(windowed).unwrap();
    let paired = [out("fastp_1.fq"), out("fastp_2.fq")];
    fastp(
        &["-l", "20"],
        &[
            "-i",
            text(&first),
            "-I",
            text(&second),
            "-o",
            text(&paired[0]),
            "-O",
            text(&paired[1]),
        ],
    );
    let paired = paired.map(|path| fs::read_to_string(path).unwrap());
    let size = usize::try_from(fs::metadata(&first).unwrap().len()).unwrap();
    for texts in [&cutadapt, &windowed, &paired[0]] {
        assert!(
            !texts.is_empty() && texts.len() < size,
            "some reads stay and some go"
        );
    }
    for interpreter in FAST {
        let ours = lua_script(
            interpreter,
            "reads.lua",
            &["trim", text(&first), "tail_quality=20", "min_length=30"],
        );
        assert!(ours == cutadapt, "{interpreter:?} beside cutadapt");
        let options = ["window_quality=15", "min_length=20"];
        let ours = lua_script(
            interpreter,
            "reads.lua",
            &[&["trim", text(&first)], &options[..]].concat(),
        );
        assert!(ours == windowed, "{interpreter:?} beside fastp");
        let written = [out("ours_1.fq"), out("ours_2.fq")];
        let files = [
            "trim_pairs",
            text(&first),
            text(&second),
            text(&written[0]),
            text(&written[1]),
        ];
        lua_script(
            interpreter,
            "reads.lua",
            &[&files[..], &options[..]].concat(),
        );
        let ours = written.map(|path| fs::read_to_string(path).unwrap());
        assert!(ours == paired, "{interpreter:?} beside fastp, pairs");
    }
}

/// Where a read stands, `None` when it is not placed: first base, whether reversed, score.
type Places = BTreeMap<String, Option<(u32, bool, i32)>>;

fn places_of(sam: &Path) -> Places {
    let places = fs::read_to_string(sam).unwrap();
    places
        .lines()
        .filter(|line| !line.starts_with('@'))
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let flag: u32 = fields[1].parse().unwrap();
            let score = fields.iter().find_map(|field| field.strip_prefix("AS:i:"));
            let place = (flag & 4 == 0).then(|| {
                (
                    fields[3].parse().unwrap(),
                    flag & 16 != 0,
                    score.unwrap().parse().unwrap(),
                )
            });
            (fields[0].to_owned(), place)
        })
        .collect()
}

/// `POSITION REF ALT` of the calls of bcftools that change one base.
fn bcftools_bases(genome: &Path, bam: &Path) -> BTreeSet<String> {
    let pileup = run(
        Command::new("bcftools")
            .args(["mpileup", "--no-version", "-f"])
            .arg(genome)
            .arg(bam),
        "bcftools",
    );
    let file = bam.with_extension("vcf");
    fs::write(&file, pileup).unwrap();
    let calls = run(
        Command::new("bcftools")
            .args(["call", "--ploidy", "1", "-mv"])
            .arg(&file),
        "bcftools",
    );
    calls
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .filter(|fields| fields[3].len() == 1 && fields[4].len() == 1)
        .map(|fields| format!("{} {} {}", fields[1], fields[3], fields[4]))
        .collect()
}

fn sorted_bam(sam: &Path) -> PathBuf {
    let bam = sam.with_extension("bam");
    run(
        Command::new("samtools")
            .args(["sort", "-o"])
            .arg(&bam)
            .arg(sam),
        "samtools",
    );
    bam
}

#[test]
fn reads_stand_where_bowtie2_places_them() {
    let scratch = tempfile::tempdir().unwrap();
    let out = |name: &str| scratch.path().join(name);
    let genome = out("lambda.fa");
    fs::copy(lambda(scratch.path()), &genome).unwrap();
    let (index, sam) = (out("lambda"), out("bowtie2.sam"));
    run(
        Command::new("bowtie2-build")
            .arg("--quiet")
            .arg(&genome)
            .arg(&index),
        "bowtie2",
    );
    let mut bowtie2 = Command::new("bowtie2");
    bowtie2
        .arg("-x")
        .arg(&index)
        .arg("-U")
        .arg(reads("reads_1.fq"))
        .arg("-S")
        .arg(&sam);
    run(&mut bowtie2, "bowtie2");
    let theirs = places_of(&sam);
    let first = reads("reads_1.fq");
    let called = bcftools_bases(&genome, &sorted_bam(&sam));
    for interpreter in FAST {
        let (sam, depth) = (out("ours.sam"), out("ours.depth"));
        let files = [
            "place",
            text(&genome),
            text(&first),
            text(&sam),
            text(&depth),
        ];
        let report = lua_script(interpreter, "reads.lua", &files);
        let ours = places_of(&sam);
        // All reads of this set that bowtie2 places, it places once.
        let (mut once, mut same, mut worse) = (0, 0, 0);
        for (read, place) in &theirs {
            let Some((position, reverse, score)) = *place else {
                continue;
            };
            once += 1;
            if let Some((our_position, our_reverse, our_score)) = ours[read] {
                same += i32::from((our_position, our_reverse) == (position, reverse));
                worse += i32::from(our_score < score);
            }
        }
        assert_eq!(once, 9_404);
        assert!(
            same * 1_000 >= once * 999,
            "{interpreter:?}: {same} of {once} at the same position"
        );
        assert_eq!(
            worse, 0,
            "{interpreter:?}: placed with a lower score than by bowtie2"
        );

        // What we count is what samtools counts in the alignments that we write.
        let bam = sorted_bam(&sam);
        let depths = |least: &str| {
            let table = run(
                Command::new("samtools")
                    .args(["depth", "-a", "-q", least])
                    .arg(&bam),
                "samtools",
            );
            table
                .lines()
                .map(|line| line.rsplit('\t').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let expected: Vec<String> = depths("0")
            .iter()
            .zip(depths("13"))
            .map(|(all, good)| format!("{all} {good}"))
            .collect();
        let counted = fs::read_to_string(&depth).unwrap();
        assert!(
            counted.lines().eq(expected.iter().map(String::as_str)),
            "{interpreter:?}: depths"
        );

        // bcftools also calls where there are few reads.
        let bases: BTreeSet<String> = report
            .lines()
            .skip(1)
            .filter(|line| line.split(' ').skip(1).all(|allele| allele.len() == 1))
            .map(str::to_owned)
            .collect();
        assert!(
            bases.is_subset(&called),
            "{interpreter:?}: {:?}",
            bases.difference(&called)
        );
        assert!(
            bases.len() * 10 >= called.len() * 8,
            "{} of {} variants",
            bases.len(),
            called.len()
        );
    }
}
