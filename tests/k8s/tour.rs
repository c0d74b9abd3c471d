//! The Kubernetes step of the README's tour, as printed there.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{controllers::server, support::tools};

/// Commands of the steps up to the one with this heading, and those of the step itself.
fn steps_to(heading: &str) -> (String, String) {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).unwrap();
    let (_, tour) = text.split_once("## Five minutes").unwrap();
    let (before, rest) = tour.split_once(heading).unwrap();
    let blocks = |text: &str| {
        let blocks: Vec<_> = text.split("```sh\n").skip(1).collect();
        blocks.iter().map(|it| it.split_once("```").unwrap().0.to_owned()).collect::<Vec<_>>()
    };
    (blocks(before).concat(), blocks(rest)[0].clone())
}

/// The step on Kubernetes, for a reader who has followed the tour so far and left everything running.
fn commands() -> String {
    let (before, step) = steps_to("**4. Kubernetes.**");
    let (_, listen) =
        step.split_once("--listen 127.0.0.1:").expect("a port of its own: 8080 is taken");
    let port = listen.split_whitespace().next().unwrap();
    assert!(before.contains(":8080") && before.contains(":8081"), "the ports of other steps");
    assert!(!before.contains(&format!(":{port}")), "another step has it: {port}");
    let left: Vec<&str> = before.lines().filter(|line| line.starts_with("export ")).collect();
    assert!(!left.is_empty(), "what the other steps leave behind");
    // Another program on this machine may use the port.
    let step = step.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0");
    format!("{}\n{step}", left.join("\n"))
}

fn folder(program: impl Into<PathBuf>) -> OsString {
    program.into().parent().unwrap().into()
}

/// Kills all processes that a shell has started, even if the test fails.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = kill_process_group(self.0, Signal::TERM);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tours_commands_do_what_the_readme_says() {
    use std::os::unix::process::CommandExt as _;
    let space = server().await.namespace("tour").await;
    let path = env::join_paths(
        [folder(env!("CARGO_BIN_EXE_bellwether")), folder(tools::program("kubernetes", "kubectl"))]
            .into_iter()
            .map(PathBuf::from)
            .chain(env::split_paths(&env::var_os("PATH").unwrap())),
    );
    let output = space.api.folder().join("tour.out");
    let file = std::fs::File::create(&output).unwrap();
    let mut shell = Command::new("sh")
        .args(["-ex", "-c", &commands()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PATH", path.unwrap())
        .env("KUBECONFIG", space.api.kubeconfig(&space.name, None))
        .env("KUBECACHEDIR", space.api.folder().join("kubectl-cache"))
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .process_group(0)
        .spawn()
        .unwrap();
    let _group = Group(Pid::from_child(&shell));
    let status = tokio::task::spawn_blocking(move || shell.wait()).await.unwrap().unwrap();
    let said = std::fs::read_to_string(&output).unwrap();
    assert!(status.success(), "{said}");
    for word in [
        "election.bellwether.dev/bellwether",
        "uptimecheck.bellwether.dev/down-on-purpose",
        &format!("election {}/bellwether", space.name),
        "leader 0 at ",
    ] {
        assert!(said.contains(word), "{word} in\n{said}");
    }
}
