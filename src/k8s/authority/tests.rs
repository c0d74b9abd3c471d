use std::{fs, path::PathBuf, sync::Mutex};

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    runtime::Handle,
    sync::mpsc,
};

use super::*;
use crate::{
    causes::find,
    clock,
    engine::BootTime,
    k8s::{
        client::{ClientOptions, connect},
        controller::ControllerMetrics,
    },
    node::{
        ClusterNode, Node as _,
        work::{LeaderTask, WorkError},
    },
    tasks,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A leader task that passes its context to the test.
struct Lends(mpsc::Sender<LeaderContext>);

#[async_trait]
impl LeaderTask for Lends {
    fn name(&self) -> &'static str {
        "lends"
    }

    async fn run(&self, ctx: LeaderContext) -> Result<(), WorkError> {
        let token = ctx.token();
        self.0.send(ctx).await?;
        token.cancelled().await;
        Ok(())
    }
}

/// A node that leads, and the context of its work.
pub(crate) async fn leading() -> (ClusterNode, LeaderContext) {
    let (lends, mut lent) = mpsc::channel(1);
    let node = ClusterNode::standalone().cluster("test").id(1).leader_task(Lends(lends));
    let node = node.build().unwrap();
    node.start().await.unwrap();
    let ctx = lent.recv().await.unwrap();
    (node, ctx)
}

pub(crate) fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

fn refusals() -> IntCounter {
    ControllerMetrics::unregistered().refused("election")
}

/// How an authority with an hour left ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Never,
    /// The driver closes it.
    Closed,
    /// The boot clock has advanced while the machine was suspended, and tokio's timers have not.
    Suspended,
}

/// The client that sends each request.
#[derive(Clone, Copy, Debug)]
enum By {
    /// The client that reconcilers use.
    Gated,
    /// The client of the process, with the permit alone: only the attempts themselves check the authority.
    Permit,
}

type Then = Box<dyn FnOnce() + Send>;

/// An API server that returns these answers, each after an action, and records its requests.
struct Server {
    kubeconfig: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
    _folder: TempDir,
}

impl Server {
    async fn answering(answers: Vec<(&'static str, Then)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("config");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
             clusters: [{{name: x, cluster: {{server: 'http://{}'}}}}]\n\
             contexts: [{{name: x, context: {{cluster: x}}}}]\n",
            listener.local_addr().unwrap(),
        );
        fs::write(&kubeconfig, text).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        drop(tasks::spawn("scripted server", async move {
            for (answer, then) in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.windows(4).any(|it| it == b"\r\n\r\n") {
                    assert!(socket.read_buf(&mut head).await.unwrap() > 0, "a whole request");
                }
                let head = String::from_utf8(head).unwrap();
                log.lock().unwrap().push(head.lines().next().unwrap().to_owned());
                then();
                let answer = format!(
                    "HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
                );
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
            std::future::pending::<()>().await;
        }));
        Self { kubeconfig, asked, _folder: folder }
    }

    async fn client(&self) -> Client {
        let options = ClientOptions::default().environment(|_| None).kubeconfig(&self.kubeconfig);
        connect(options).await.unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn send(client: &Client, request: Request<Body>) -> Result<u16, kube::Error> {
    client.send(request).await.map(|answer| answer.status().as_u16())
}

fn post() -> Request<Body> {
    Request::post("/write").body(Body::from(b"{}".to_vec())).unwrap()
}

/// Result of a write whose first attempt gets the answer `first` and whose second attempt would succeed.
/// While the server has the first attempt, the authority ends.
async fn outcome(first: &'static str, end: End, by: By) -> (Result<u16, kube::Error>, Vec<String>) {
    let (node, ctx) = leading().await;
    let (ctx, gate) = ctx.apart();
    gate.extend(BootTime(clock::boot_now().0 + HOUR));
    let ends = move || match end {
        End::Never => {}
        End::Closed => gate.close(),
        End::Suspended => gate.extend(BootTime(Duration::ZERO)),
    };
    let answers: Vec<(_, Then)> = vec![(first, Box::new(ends)), ("200 OK", Box::new(|| {}))];
    let server = Server::answering(answers).await;
    let (client, authority) = (server.client().await, Authority::Leader(ctx));
    let written = match by {
        By::Gated => {
            let gated = GatedClient::new(&client, &authority, &refusals());
            send(gated.client(), post()).await
        }
        By::Permit => {
            let mut request = post();
            request.extensions_mut().insert(Permit::new(authority));
            send(&client, request).await
        }
    };
    node.stop(HOUR).await.unwrap();
    (written, server.asked())
}

fn refused_as(error: &kube::Error) -> &Refused {
    find(error).unwrap_or_else(|| panic!("not refused: {error:?}"))
}

const BUSY: &str = "429 Busy\r\nretry-after: 1";

#[tokio::test]
async fn an_authority_that_ends_between_two_attempts_stops_the_second() {
    for by in [By::Gated, By::Permit] {
        let (written, asked) = outcome(BUSY, End::Never, by).await;
        assert_eq!(written.unwrap(), 200, "{by:?}");
        assert_eq!(asked, ["POST /write HTTP/1.1"; 2], "{by:?}: two attempts");
        for end in [End::Closed, End::Suspended] {
            let (written, asked) = outcome(BUSY, end, by).await;
            assert_eq!(asked, ["POST /write HTTP/1.1"], "{end:?} {by:?}");
            let error = written.unwrap_err();
            let unsent = matches!(refused_as(&error), Refused::Unsent { .. });
            // The gated client may notice the end before the answer that proves that the write had no effect.
            assert!(unsent || matches!(by, By::Gated), "{end:?} {by:?}: {error:?}");
            assert!(is_refused(&error));
        }
    }
}

#[tokio::test]
async fn a_write_whose_authority_ends_in_flight_is_given_up_and_its_outcome_is_unknown() {
    for end in [End::Closed, End::Suspended] {
        let (written, asked) = outcome("200 OK", end, By::Gated).await;
        assert_eq!(asked, ["POST /write HTTP/1.1"], "{end:?}");
        let error = written.unwrap_err();
        assert!(matches!(refused_as(&error), Refused::Abandoned { .. }), "{end:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_503_is_repeated_for_reads_only_and_reads_need_no_authority() {
    let (written, asked) = outcome("503 Busy", End::Never, By::Gated).await;
    assert_eq!((written.unwrap(), asked.len()), (503, 1), "nobody knows what a write did");

    let (node, ctx) = leading().await;
    let (ctx, gate) = ctx.apart();
    gate.close();
    let nothing = || -> Then { Box::new(|| {}) };
    let server = Server::answering(vec![("503 Busy", nothing()), ("200 OK", nothing())]).await;
    let authority = Authority::Leader(ctx);
    let gated = GatedClient::new(&server.client().await, &authority, &refusals());
    let read = Request::get("/read").body(Body::empty()).unwrap();
    assert_eq!(send(gated.client(), read).await.unwrap(), 200);
    assert_eq!(server.asked(), ["GET /read HTTP/1.1"; 2]);
    let error = send(gated.client(), post()).await.unwrap_err();
    assert!(matches!(refused_as(&error), Refused::Unsent { .. }), "{error:?}");
    assert_eq!(server.asked().len(), 2);
    node.stop(HOUR).await.unwrap();
}

#[tokio::test]
async fn an_end_by_the_boot_clock_shows_however_long_a_timer_still_runs() {
    let (node, ctx) = leading().await;
    for jumps in [false, true] {
        let (ctx, gate) = ctx.apart();
        gate.extend(BootTime(clock::boot_now().0 + HOUR));
        let authority = Authority::Leader(ctx);
        tokio::time::pause();
        if jumps {
            // In a task of its own, only its timer wakes the future.
            let over = tasks::spawn("over", async move { authority.over().await });
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!over.is_finished());
            gate.extend(BootTime(Duration::ZERO));
            tokio::select! {
                biased;
                lost = over => drop(lost.unwrap()),
                () = tokio::time::sleep(HOUR / 2) => panic!("it waits for a timer of an hour"),
            }
        } else {
            let mut over = pin!(authority.over());
            assert!(futures::poll!(&mut over).is_pending());
            gate.close();
            assert!(futures::poll!(&mut over).is_ready(), "each poll asks, whatever woke it");
        }
        tokio::time::resume();
    }
    node.stop(HOUR).await.unwrap();
}

#[tokio::test]
async fn a_write_carries_what_its_attempts_are_checked_against_and_a_read_does_not() {
    let (node, ctx) = leading().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let service = tower::service_fn(move |request: Request<Body>| {
        let permit = Permit::of(request.extensions()).map(|it| it.check().is_ok());
        log.lock().unwrap().push((request.method().clone(), permit));
        async { Ok::<_, BoxError>(Response::new(Body::empty())) }
    });
    let client = Client::new(service, "n");
    let gated = GatedClient::new(&client, &Authority::Leader(ctx), &refusals());
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::GET] {
        let request = Request::builder().method(method).uri("/").body(Body::empty()).unwrap();
        send(gated.client(), request).await.unwrap();
    }
    let held =
        [Method::POST, Method::PUT, Method::PATCH, Method::DELETE].map(|it| (it, Some(true)));
    assert_eq!(*seen.lock().unwrap(), [&held[..], &[(Method::GET, None)]].concat());
    node.stop(HOUR).await.unwrap();
}

#[tokio::test]
async fn ending_a_client_joins_its_task_and_refuses_what_is_left_of_it() {
    let (node, ctx) = leading().await;
    let server = Server::answering(Vec::new()).await;
    let client = server.client().await;
    let before = alive_tasks();
    let gated = GatedClient::new(&client, &Authority::Leader(ctx), &refusals());
    let kept = gated.client().clone();
    assert_eq!(alive_tasks(), before + 1);
    gated.end().await;
    assert_eq!(alive_tasks(), before, "the task is joined, though a handle is kept");
    for request in [post(), Request::get("/read").body(Body::empty()).unwrap()] {
        let error = send(&kept, request).await.unwrap_err();
        assert!(is_refused(&error), "{error:?}");
    }
    assert_eq!(server.asked(), Vec::<String>::new());
    node.stop(HOUR).await.unwrap();
}
