/* Descriptors, by way of libevent. */
#include "loop/loop_internal.h"

#include "mesh/error.h"

#include <event2/event.h>

static void on_event(evutil_socket_t fd, short what, void *user)
{
	struct mesh__watch *watch = user;
	struct mesh__loop *lp = watch->lp, *outer = mesh__loop_enter(lp);

	(void)fd;
	watch->ready(watch, lp, (what & EV_READ ? MESH__WATCH_READ : 0) | (what & EV_WRITE ? MESH__WATCH_WRITE : 0));
	mesh__loop_leave(outer);
}

int mesh__watch_open(struct mesh__loop *lp, struct mesh__watch *watch, int fd, int what,
		     void (*ready)(struct mesh__watch *, struct mesh__loop *, int))
{
	*watch = (struct mesh__watch){ .ready = ready, .lp = lp, .fd = fd };
	watch->read_event = event_new(lp->base, fd, EV_READ | EV_PERSIST, on_event, watch);
	watch->write_event = event_new(lp->base, fd, EV_WRITE | EV_PERSIST, on_event, watch);
	if (!watch->read_event || !watch->write_event || mesh__watch_want(watch, what)) {
		mesh__watch_close(watch);
		return MESH_E_NOMEM;
	}
	return 0;
}

static int want(struct event *event, int is_wanted)
{
	if (event_pending(event, EV_READ | EV_WRITE, NULL) == 0)
		return is_wanted ? event_add(event, NULL) : 0;
	return is_wanted ? 0 : event_del(event);
}

int mesh__watch_want(struct mesh__watch *watch, int what)
{
	if (want(watch->read_event, what & MESH__WATCH_READ) || want(watch->write_event, what & MESH__WATCH_WRITE))
		return MESH_E_SYSTEM;
	return 0;
}

void mesh__watch_close(struct mesh__watch *watch)
{
	if (watch->read_event)
		event_free(watch->read_event);
	if (watch->write_event)
		event_free(watch->write_event);
	watch->read_event = watch->write_event = NULL;
}
