//! Metrics structs, which are all made in one way.
//!
//! [`metrics!`] declares a struct and each of its metrics once; the constructors are the same for every
//! struct. Each struct is declared beside what it measures.

use std::{
    cell::RefCell,
    sync::{Mutex, PoisonError},
};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Declares a metrics struct. The expression of a field may use the [`Build`] and the fields above it.
macro_rules! metrics {
    (
        $build:ident =>
        $(#[$attribute:meta])*
        $vis:vis struct $name:ident {
            $($(#[$doc:meta])* $of:vis $field:ident: $type:ty = $metric:expr;)*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone)]
        $vis struct $name {
            $($(#[$doc])* $of $field: $type,)*
        }

        #[allow(dead_code, reason = "a struct that is part of another one is registered with it")]
        impl $name {
            /// Creates the metrics and registers them in `registry`.
            ///
            /// # Errors
            ///
            /// If the registry has metrics of these names already.
            $vis fn register(registry: &prometheus::Registry) -> prometheus::Result<Self> {
                $crate::metrics::Build::register(registry, Self::build)
            }

            /// Creates metrics that no registry collects.
            $vis fn unregistered() -> Self {
                $crate::metrics::Build::made_by(Self::build).0
            }

            /// Collectors of these metrics, for the table in the documentation.
            #[doc(hidden)]
            $vis fn collectors() -> Vec<Box<dyn prometheus::core::Collector>> {
                $crate::metrics::Build::made_by(Self::build).1
            }

            pub(crate) fn build($build: &$crate::metrics::Build) -> Self {
                $(let $field: $type = $metric;)*
                Self { $($field,)* }
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

pub(crate) use metrics;

/// Makes metrics and keeps their collectors.
#[derive(Default)]
pub(crate) struct Build(RefCell<Vec<Box<dyn Collector>>>);

impl Build {
    /// The result of `build`, and the collectors of the metrics that it has made.
    pub(crate) fn made_by<T>(build: impl FnOnce(&Self) -> T) -> (T, Vec<Box<dyn Collector>>) {
        let this = Self::default();
        (build(&this), this.0.into_inner())
    }

    /// The result of `build`, with its metrics registered.
    ///
    /// # Errors
    ///
    /// If the registry has metrics of these names already.
    pub(crate) fn register<T>(
        registry: &Registry,
        build: impl FnOnce(&Self) -> T,
    ) -> prometheus::Result<T> {
        let (made, collectors) = Self::made_by(build);
        collectors.into_iter().try_for_each(|it| registry.register(it))?;
        Ok(made)
    }

    /// Adds a metric.
    ///
    /// # Panics
    ///
    /// If its name or a label is invalid; they are constants of the program.
    pub(crate) fn add<C: Collector + Clone + 'static>(&self, metric: prometheus::Result<C>) -> C {
        let metric = metric.expect("names and labels of metrics are valid");
        self.collect(metric.clone());
        metric
    }

    pub(crate) fn collect(&self, collector: impl Collector + 'static) {
        self.0.borrow_mut().push(Box::new(collector));
    }

    /// Adds metrics whose values are computed at each scrape, by the function that `build` returns.
    pub(crate) fn computed<F>(&self, build: impl FnOnce(&Self) -> F)
    where
        F: Fn() + Send + 'static,
    {
        let (compute, metrics) = Self::made_by(build);
        self.collect(Computed { metrics, compute: Mutex::new(compute) });
    }

    pub(crate) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    pub(crate) fn counters(&self, name: &str, labels: &[&str], help: &str) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(crate) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    pub(crate) fn gauges(&self, name: &str, labels: &[&str], help: &str) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(crate) fn histogram(&self, name: &str, buckets: &[f64], help: &str) -> Histogram {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(opts))
    }

    pub(crate) fn histograms(
        &self,
        name: &str,
        labels: &[&str],
        buckets: &[f64],
        help: &str,
    ) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(HistogramVec::new(opts, labels))
    }
}

/// Metrics that are computed at each scrape, by one scrape at a time.
struct Computed<F> {
    metrics: Vec<Box<dyn Collector>>,
    compute: Mutex<F>,
}

impl<F: Fn() + Send> Collector for Computed<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.metrics.iter().flat_map(|it| it.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let compute = self.compute.lock().unwrap_or_else(PoisonError::into_inner);
        compute();
        self.metrics.iter().flat_map(|it| it.collect()).collect()
    }
}

/// Counts in a gauge for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Counted(IntGauge);

impl Counted {
    pub(crate) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
