/* What identity's options may say, looked at when they are read. Pure. */
#ifndef MESH_IDENTITY_IDENTITY_CHECK_H
#define MESH_IDENTITY_IDENTITY_CHECK_H

#include "config/config.h"

/* A mesh__config_check() for the options of identity; 0 for all others. MESH_E_OPTION with a sentence. */
int mesh__identity_check(enum mesh__option option, const char *text, struct mesh_error *err);

/* "local:", "file:/DIR", "spiffe:unix:///PATH", "spiffe:tcp://IP:PORT", "off". MESH_E_OPTION. */
int mesh__identity_check_uri(const char *uri, struct mesh_error *err);

#endif
