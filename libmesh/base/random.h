/*
 * Seeded random numbers for policies: xoshiro256** (Blackman and Vigna, 2018), seeded through splitmix64. Not for secrets.
 * A generator belongs to one thread.
 */
#ifndef MESH_BASE_RANDOM_H
#define MESH_BASE_RANDOM_H

#include <stdint.h>

struct mesh__random {
	uint64_t state[4];
};

void mesh__random_init(struct mesh__random *random, uint64_t seed);
uint64_t mesh__random_entropy(void); /* a seed from the kernel */
double mesh__random_unit(struct mesh__random *random); /* in [0, 1) */

static inline uint64_t mesh__random_next(struct mesh__random *random)
{
	uint64_t *s = random->state;
	uint64_t scaled = s[1] * 5, result = ((scaled << 7) | (scaled >> 57)) * 9, t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = (s[3] << 45) | (s[3] >> 19);
	return result;
}

/* Uniform in [0, bound), bound > 0; by Lemire's multiply-shift, whose bias below 2^-32 x bound does not matter to a policy. */
static inline uint32_t mesh__random_below(struct mesh__random *random, uint32_t bound)
{
	return (uint32_t)(((mesh__random_next(random) >> 32) * bound) >> 32);
}

#endif
