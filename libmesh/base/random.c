#include "base/random.h"

#include "base/clock.h"

#include <sys/random.h>

static uint64_t splitmix64(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

void mesh__random_init(struct mesh__random *random, uint64_t seed)
{
	for (int i = 0; i < 4; i++)
		random->state[i] = splitmix64(&seed);
}

uint64_t mesh__random_entropy(void)
{
	uint64_t seed;

	if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
		seed = mesh__clock_now_ns() ^ mesh__clock_wall_ns();
	return seed;
}

double mesh__random_unit(struct mesh__random *random)
{
	return (double)(mesh__random_next(random) >> 11) * 0x1.0p-53;
}
