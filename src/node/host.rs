//! Thread that drivers run on.
//!
//! Beats, keepalives, the watch and the engine run on a current-thread runtime of their own, without any
//! user code: busy user code cannot starve them. By default one thread runs one node; nodes that are built
//! with the same host share it.

use std::{
    future::Future,
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::JoinHandle,
};

use crate::clock;

/// Stack size: enough for the deepest call of the driver and the store below it.
const STACK_BYTES: usize = 1024 * 1024;

/// Thread with a runtime of its own. Cheap to clone; the thread ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct DriverHost {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    handle: Handle,
    end: Mutex<Option<oneshot::Sender<()>>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl DriverHost {
    /// Starts the thread; `name` shows in `ps -L` (15 bytes are kept).
    ///
    /// # Errors
    ///
    /// If the system cannot create the thread or has no file descriptors left.
    pub fn new(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name(name.chars().take(15).collect())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                // Ends when the sender sends or is dropped.
                let _ = runtime.block_on(ended);
                runtime.shutdown_background();
            })?;
        let (end, thread) = (Mutex::new(Some(end)), Mutex::new(Some(thread)));
        Ok(Self { inner: Arc::new(Inner { handle, end, thread }) })
    }

    /// Number of tasks on the thread, to check that none is left behind.
    pub fn tasks(&self) -> usize {
        self.inner.handle.metrics().num_alive_tasks()
    }

    /// Runs a future on the thread.
    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.inner.handle.spawn(future)
    }

    /// Runtime of the thread. Connections that are opened inside `enter` run there.
    pub(crate) fn handle(&self) -> &Handle {
        &self.inner.handle
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let end = self.end.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        drop(end);
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // The thread itself drops the last handle (a driver held it), so there is nothing to wait for.
        if thread.thread().id() == thread::current().id() {
            return;
        }
        // The runtime drops its tasks when `block_on` returns; this takes only a moment.
        let until = clock::boot_now() + Duration::from_secs(1);
        while !thread.is_finished() && clock::boot_now() < until {
            thread::yield_now();
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
}
