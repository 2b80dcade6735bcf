#include "prometheus.h"

#include <memory>
#include <prometheus/counter.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <string>

extern "C" void *prometheus_counter(void)
{
	static prometheus::Registry registry;
	static auto &family = prometheus::BuildCounter().Name("mesh_calls_total").Help("Calls started.").Register(registry);

	return &family.Add({ { "service", "users" } });
}

extern "C" void prometheus_add(void *counter, uint64_t times)
{
	auto *c = static_cast<prometheus::Counter *>(counter);

	for (uint64_t i = 0; i < times; i++)
		c->Increment();
}

extern "C" void *prometheus_registry(unsigned series)
{
	auto *registry = new prometheus::Registry;
	auto &family = prometheus::BuildCounter().Name("mesh_attempts_total").Help("Attempts sent to an endpoint.").Register(*registry);

	for (unsigned i = 0; i < series; i++)
		family.Add({ { "service", "users" }, { "endpoint", "10.0.0.1:" + std::to_string(i) } }).Increment(i);
	return registry;
}

extern "C" size_t prometheus_scrape(void *registry)
{
	return prometheus::TextSerializer().Serialize(static_cast<prometheus::Registry *>(registry)->Collect()).size();
}
