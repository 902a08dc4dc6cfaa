// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hostpolicy/hostpolicy/backends/metrics"
)

// Collector makes a Prometheus collector of sources, which are asked at each scrape and may take so long. What a source
// that fails would have told is missing then, and hostpolicy_metrics_ok is 0.
func Collector(patience time.Duration, log *slog.Logger, sources ...metrics.Source) prometheus.Collector {
	return collector{patience, log, sources}
}

type collector struct {
	patience time.Duration
	log      *slog.Logger
	sources  []metrics.Source
}

// Describe sends nothing: which rules there are is not known beforehand, so that the collector is an unchecked one.
func (c collector) Describe(chan<- *prometheus.Desc) {}

var okDesc = prometheus.NewDesc("hostpolicy_metrics_ok", "1 if everything could be asked.", nil, nil)

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), c.patience)
	defer cancel()
	samples, err := metrics.Gather(ctx, c.sources...)
	ok := 1.0
	if err != nil {
		c.log.Warn("metrics are incomplete", "error", err)
		ok = 0
	}
	ch <- prometheus.MustNewConstMetric(okDesc, prometheus.GaugeValue, ok)
	var names, values []string
	for _, s := range samples {
		names, values = names[:0], values[:0]
		for _, l := range s.Labels {
			names, values = append(names, l.Name), append(values, l.Value)
		}
		kind := prometheus.GaugeValue
		if s.Kind == metrics.Counter {
			kind = prometheus.CounterValue
		}
		d := prometheus.NewDesc(s.Name, s.Help, append([]string(nil), names...), nil)
		m, err := prometheus.NewConstMetric(d, kind, s.Value, append([]string(nil), values...)...)
		if err != nil {
			m = prometheus.NewInvalidMetric(d, err)
		}
		ch <- m
	}
}
