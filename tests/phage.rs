//! The workflow of examples/phage_resequencing: its figures beside independent tools, and the same
//! report, byte for byte, from VMs of any type and number.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../examples/phage_resequencing/page.rs"]
mod page;
#[path = "../examples/phage_resequencing/plots.rs"]
mod plots;
#[path = "../examples/phage_resequencing/report.rs"]
#[allow(dead_code, reason = "the example tells more than a test wants to hear")]
mod report;
#[path = "rocks/tools.rs"]
#[allow(dead_code, reason = "shared with the tests of the rocks")]
mod tools;
#[path = "../examples/phage_resequencing/workflow.rs"]
#[allow(dead_code, reason = "the example tells more than a test wants to hear")]
mod workflow;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bioxen::embedded::EmbeddedPool;
use bioxen::map::{Map, MapEvent};
use bioxen::{Value, VmManager};
use serde_json::json;
use tools::{reads, root, run};
use workflow::{Data, Vms};

/// The first pairs and long reads, for what is done many times.
fn some_data(folder: &Path) -> Data {
    let all = all_data();
    let cut = |file: &Path, reads: usize| {
        let text = fs::read_to_string(file).unwrap();
        let lines: Vec<&str> = text.lines().take(4 * reads).collect();
        let cut = folder.join(file.file_name().unwrap());
        fs::write(&cut, lines.join("\n") + "\n").unwrap();
        cut
    };
    Data {
        pairs: all.pairs.map(|file| cut(&file, 200)),
        long: cut(&all.long, 60),
        genome: all.genome,
    }
}

fn all_data() -> Data {
    Data::of(reads("longreads.fq").parent().unwrap())
}

fn basic(count: usize) -> Vms {
    Vms {
        vm_type: "basic".into(),
        config: json!({"worker": env!("CARGO_BIN_EXE_bioxen")}),
        count,
    }
}

fn xcpng(pool: &EmbeddedPool, count: usize) -> Vms {
    Vms {
        vm_type: "xcpng".into(),
        config: pool.config(),
        count,
    }
}

/// Runs the workflow and gives the files of the report.
async fn report(
    data: &Data,
    vms: &Vms,
    out: &Path,
    hear: impl Fn(&Map),
) -> BTreeMap<String, Vec<u8>> {
    let manager = Arc::new(VmManager::new(bioxen::factory()));
    let result = workflow::run(&manager, data, vms, out, hear).await;
    assert!(manager.vms().is_empty(), "VMs are left");
    manager.shutdown_all().await.unwrap();
    result.unwrap();
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(out).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_file() && name != "times.txt" {
            files.insert(name, fs::read(path).unwrap());
        }
    }
    assert_eq!(files.len(), 7, "{:?}", files.keys());
    files
}

/// Names the files that differ; their text would say nothing.
fn assert_same(left: &BTreeMap<String, Vec<u8>>, right: &BTreeMap<String, Vec<u8>>, what: &str) {
    let differing: Vec<_> = left
        .iter()
        .filter(|(name, content)| right.get(*name) != Some(content))
        .map(|(name, _)| name)
        .collect();
    assert!(differing.is_empty(), "{what}: {differing:?} differ");
}

/// The report of some data from one VM of this machine, and a folder for another one.
async fn expected() -> (tempfile::TempDir, Data, BTreeMap<String, Vec<u8>>) {
    let lab = tempfile::tempdir().unwrap();
    let data = some_data(lab.path());
    let expected = report(&data, &basic(1), &lab.path().join("expected"), |_| {}).await;
    (lab, data, expected)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_is_the_same_from_one_vm_of_this_machine_and_from_eight() {
    let (lab, data, expected) = expected().await;
    let many = report(&data, &basic(8), &lab.path().join("many"), |_| {}).await;
    assert_same(&expected, &many, "eight basic VMs");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_is_the_same_from_one_vm_of_a_pool_and_from_four() {
    let (lab, data, expected) = expected().await;
    let pool = EmbeddedPool::start().await.unwrap();
    for count in [1, 4] {
        let out = lab.path().join(count.to_string());
        let report = report(&data, &xcpng(&pool, count), &out, |_| {}).await;
        assert_same(&expected, &report, &format!("{count} xcpng VMs"));
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_is_the_same_when_a_guest_is_killed_half_way() {
    let (lab, data, expected) = expected().await;
    let pool = EmbeddedPool::start().await.unwrap();
    let (heard, events) = std::sync::mpsc::channel();
    let killer = |map: &Map| {
        let (mut receiver, sim) = (map.subscribe(), pool.sim());
        let (transport, credentials) = (sim.transport(), sim.credentials().clone());
        let heard = heard.clone();
        tokio::spawn(async move {
            let mut is_killed = false;
            while let Ok(event) = receiver.recv().await {
                if let MapEvent::Started { shard: 3.., vm } = &event
                    && !is_killed
                    && vm.contains("pairs")
                {
                    is_killed = true;
                    let client = xapi_client::Client::over(transport.clone())
                        .credentials(credentials.user(), credentials.password().clone())
                        .login()
                        .await
                        .unwrap();
                    let api = client.vm();
                    let found = api
                        .get_by_name_label(&format!("bioxen-{vm}"))
                        .await
                        .unwrap();
                    api.hard_shutdown(&found[0]).await.unwrap();
                    client.close().await.unwrap();
                }
                heard.send(event).unwrap();
            }
        });
    };
    let killed = report(&data, &xcpng(&pool, 2), &lab.path().join("killed"), killer).await;
    assert_same(&expected, &killed, "a guest killed half-way");
    let lost: Vec<_> = events
        .try_iter()
        .filter(|event| matches!(event, MapEvent::Retried { lost: true, .. }))
        .collect();
    assert_eq!(lost.len(), 1, "{lost:?}");
    let leaks = pool.sim().leaks().into_iter();
    let leaks: Vec<_> = leaks.filter(|leak| leak.class != "Certificate").collect();
    assert!(leaks.is_empty(), "{leaks:?}");
    pool.shutdown().await;
}

fn table(out: &Path, name: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(out.join(name)).unwrap();
    let row = |line: &str| line.split('\t').map(str::to_owned).collect();
    text.lines().skip(1).map(row).collect()
}

/// The numbers of a table of another tool, line by line without its head.
fn columns(text: &str, skip: usize) -> Vec<Vec<String>> {
    let row = |line: &str| line.split('\t').skip(skip).map(str::to_owned).collect();
    text.lines().skip(1).map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_are_those_of_other_tools() {
    let lab = tempfile::tempdir().unwrap();
    let (data, out) = (all_data(), lab.path().join("out"));
    report(&data, &basic(2), &out, |_| {}).await;
    let report: Value =
        serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    let file = |name: &str| lab.path().join(name);

    // Quality control.
    let files = [&data.pairs[0], &data.pairs[1], &data.long];
    let seqkit = run(
        Command::new("seqkit").args(["stats", "-aT"]).args(files),
        "seqkit",
    );
    let expected: Vec<Vec<String>> = columns(&seqkit, 3)
        .into_iter()
        // Without the quartiles and gaps, which the table does not have.
        .map(|row| [&row[..5], &row[9..]].concat())
        .collect();
    let ours: Vec<Vec<String>> = table(&out, "reads.tsv")
        .iter()
        .map(|row| row[1..].to_vec())
        .collect();
    assert_eq!(ours, expected);

    // k-mers of the reads and of the genome.
    for (k, inputs, place) in [
        ("21", &data.pairs[..], "/kmers"),
        ("11", std::slice::from_ref(&data.genome), "/genome/kmers"),
    ] {
        let database = file("counts.jf");
        let mut count = Command::new("jellyfish");
        count
            .args(["count", "-C", "-s", "1M", "-m", k, "-o"])
            .arg(&database);
        run(count.args(inputs), "jellyfish");
        let stats = run(
            Command::new("jellyfish").arg("stats").arg(&database),
            "jellyfish",
        );
        let theirs: Vec<u64> = stats
            .lines()
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        let ours = report.pointer(place).unwrap();
        let ours = ["unique", "distinct", "total", "max"].map(|name| ours[name].as_u64().unwrap());
        assert_eq!(ours, theirs[..], "{place}");
    }

    // Open reading frames.
    // Its table 0 is the standard code with ATG alone as start; codes 1 and 11 translate alike.
    let mut getorf = Command::new("getorf");
    getorf.args([
        "-snucleotide1",
        "-find",
        "1",
        "-minsize",
        "300",
        "-outseq",
        "stdout",
        "-auto",
    ]);
    let getorf = run(getorf.arg("-sequence").arg(&data.genome), "emboss");
    let mut theirs: Vec<String> = getorf
        .split('>')
        .skip(1)
        .map(|record| {
            record
                .split_once('\n')
                .unwrap()
                .1
                .split_whitespace()
                .collect()
        })
        .collect();
    let mut ours: Vec<String> = table(&out, "orfs.tsv")
        .iter()
        .map(|row| row[6].clone())
        .collect();
    theirs.sort();
    ours.sort();
    assert_eq!(ours.len(), 67);
    assert_eq!(ours, theirs);

    // Trimming, placement and coverage.
    let trimmed = [file("trimmed_1.fq"), file("trimmed_2.fq")];
    let mut cutadapt = Command::new("cutadapt");
    cutadapt
        .args(["--quiet", "-q", "20", "-m", "30", "-o"])
        .arg(&trimmed[0]);
    run(
        cutadapt.arg("-p").arg(&trimmed[1]).args(&data.pairs),
        "cutadapt",
    );
    let lines = fs::read_to_string(&trimmed[0]).unwrap().lines().count() as u64;
    assert_eq!(report["trimmed"]["kept"], lines / 4);
    let (index, sam, bam) = (file("lambda"), file("bowtie2.sam"), file("bowtie2.bam"));
    let mut build = Command::new("bowtie2-build");
    run(
        build.arg("--quiet").arg(&data.genome).arg(&index),
        "bowtie2",
    );
    let both = format!("{},{}", trimmed[0].display(), trimmed[1].display());
    let mut bowtie2 = Command::new("bowtie2");
    bowtie2
        .arg("-x")
        .arg(&index)
        .args(["-U", &both, "-S"])
        .arg(&sam);
    run(&mut bowtie2, "bowtie2");
    let text = fs::read_to_string(&sam).unwrap();
    let flags = text
        .lines()
        .filter(|line| !line.starts_with('@'))
        .map(|line| line.split('\t').nth(1).unwrap().parse::<u32>().unwrap());
    let theirs = flags.filter(|flag| flag & 4 == 0).count() as f64;
    let ours = report["placed"]["placed"].as_f64().unwrap();
    assert_eq!(report["placed"]["reads"], lines / 2);
    // We place those that it places, and a few in a hundred more, which its shortcuts pass over.
    assert!(
        (0.0..=0.03).contains(&(ours / theirs - 1.0)),
        "{ours} beside {theirs}"
    );
    run(
        Command::new("samtools")
            .args(["sort", "-o"])
            .arg(&bam)
            .arg(&sam),
        "samtools",
    );
    let depths = run(
        Command::new("samtools").args(["depth", "-a"]).arg(&bam),
        "samtools",
    );
    let depths: Vec<i64> = depths
        .lines()
        .map(|line| line.rsplit('\t').next().unwrap().parse().unwrap())
        .collect();
    let ours: Vec<i64> = table(&out, "coverage.tsv")
        .iter()
        .map(|row| row[1].parse().unwrap())
        .collect();
    assert_eq!(ours.len(), depths.len());
    let far = ours
        .iter()
        .zip(&depths)
        .filter(|(ours, theirs)| (*ours - *theirs).abs() > 2)
        .count();
    assert!(
        far * 100 <= depths.len(),
        "{far} bases differ in depth by more than 2"
    );

    // And the page shows them.
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    for (figure, times) in [
        ("Quality by position, read 2", 5),
        ("Depth along the genome", 5),
    ] {
        assert!(page.matches(figure).count() >= times, "{figure}");
    }
    for foreign in ["http", "src=", "@import", "url("] {
        assert!(
            !page.contains(foreign),
            "the page is not by itself: {foreign}"
        );
    }
    for file in [&data.genome, &data.long] {
        let name: PathBuf = file.file_name().unwrap().into();
        assert!(page.contains(name.to_str().unwrap()));
    }
    assert!(root().join("docs/workflow.md").is_file());
}

/// Measures the page in frames as wide as a desk's and a telephone's window.
const MEASURE: &str = r#"
addEventListener("load", () => {
  document.title = [...document.querySelectorAll("iframe")].map((frame) => {
    const view = frame.contentWindow, page = view.document;
    page.querySelectorAll("details").forEach((part) => { part.open = true; });
    const wide = page.documentElement.clientWidth;
    // Tables scroll by themselves.
    const out = [...page.querySelectorAll("main *")].filter((part) => !part.closest(".table"))
      .filter((part) => part.getBoundingClientRect().right > wide + 0.5).length;
    const plots = [...page.querySelectorAll("figure svg")].filter((plot) => plot.getBoundingClientRect().width > 0);
    const scrolled = page.documentElement.scrollWidth > wide;
    return [view.innerWidth, scrolled, out, plots.length, view.performance.getEntriesByType("resource").length].join(" ");
  }).join(", ");
});"#;

/// In Chromium, where it is installed: nothing is wider than the window, every plot is shown once,
/// nothing is fetched, nothing goes wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_the_page_at_the_width_of_a_desk_and_of_a_telephone() {
    let (scratch, _, files) = expected().await;
    let page = String::from_utf8(files["report.html"].clone()).unwrap();
    let plots = page.matches("<figure>").count();
    let page = page.replace('&', "&amp;").replace('"', "&quot;");
    let frames = [1280, 390].map(|width| {
        format!(
            "<iframe style=\"width:{width}px;height:900px;border:0\" srcdoc=\"{page}\"></iframe>"
        )
    });
    let probe = scratch.path().join("probe.html");
    let html = format!(
        "<!doctype html><title></title><script>{MEASURE}</script>{}",
        frames.concat()
    );
    fs::write(&probe, html).unwrap();
    let mut chromium = Command::new("chromium");
    chromium
        .args(["--headless", "--no-sandbox", "--disable-gpu"])
        .args([
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr",
        ])
        .arg(format!(
            "--user-data-dir={}",
            scratch.path().join("browser").display()
        ))
        .args(["--dump-dom".as_ref(), probe.as_os_str()]);
    let output = tools::output_of(&mut chromium).expect("there is no chromium");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("CONSOLE"), "{said}");
    let shown = String::from_utf8_lossy(&output.stdout);
    let title = shown.split("<title>").nth(1).unwrap();
    assert_eq!(
        title.split("</title>").next().unwrap(),
        format!("1280 false 0 {plots} 0, 390 false 0 {plots} 0")
    );
}
