//! Paths of the pinned programs that tests run: `tests/tools/build.sh` builds the programs once.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{LazyLock, Mutex},
};

/// The path of a program of the Go module `tests/tools/<tool>`.
///
/// The program is taken from the folder in the environment variable `BELLWETHER_TOOLS`, which `make test` sets.
/// Otherwise `tests/tools/build.sh` builds the program, which takes minutes the first time.
///
/// # Panics
///
/// Panics if the program is missing and cannot be built, and names the command to run.
pub fn program(tool: &str, program: &str) -> PathBuf {
    let path = folder(tool).join(program);
    assert!(
        path.is_file(),
        "{} is missing: run `tests/tools/build.sh {tool}` and set BELLWETHER_TOOLS to the folder it \
         prints, or unset BELLWETHER_TOOLS",
        path.display()
    );
    path
}

/// Whether promtool accepts a scrape, and its output.
pub fn promtool_check(text: &str) -> (bool, String) {
    use std::io::Write as _;
    let mut child = Command::new(program("prometheus", "promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8(said).unwrap())
}

fn folder(tool: &str) -> PathBuf {
    static BUILT: LazyLock<Mutex<HashMap<String, PathBuf>>> = LazyLock::new(Mutex::default);
    if let Some(folder) = std::env::var_os("BELLWETHER_TOOLS") {
        return folder.into();
    }
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    built.entry(tool.to_owned()).or_insert_with(|| build(tool)).clone()
}

fn build(tool: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/build.sh");
    let output = Command::new(&script)
        .arg(tool)
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{} cannot be run: {error}", script.display()));
    assert!(
        output.status.success(),
        "the test tool {tool} could not be built: run `tests/tools/build.sh {tool}` to see why"
    );
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}
