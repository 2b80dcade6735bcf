/* An intrusive, circular, doubly linked list. The head is a node, too. */
#ifndef MESH_BASE_LIST_H
#define MESH_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct mesh__list {
	struct mesh__list *next, *prev;
};

#define MESH__CONTAINER(node, type, member) ((type *)(void *)((char *)(node) - offsetof(type, member)))

static inline void mesh__list_init(struct mesh__list *head)
{
	head->next = head->prev = head;
}

static inline bool mesh__list_is_empty(const struct mesh__list *head)
{
	return head->next == head;
}

static inline void mesh__list_append(struct mesh__list *head, struct mesh__list *node)
{
	node->prev = head->prev;
	node->next = head;
	head->prev->next = node;
	head->prev = node;
}

/* Leaves the node linked to itself, so that removing twice is harmless. */
static inline void mesh__list_remove(struct mesh__list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	mesh__list_init(node);
}

static inline struct mesh__list *mesh__list_take_first(struct mesh__list *head)
{
	struct mesh__list *node = head->next;

	if (node == head)
		return NULL;
	mesh__list_remove(node);
	return node;
}

#endif
