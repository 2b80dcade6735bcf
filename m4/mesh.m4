dnl MESH_NEEDS(PREFIX, MODULE, PACKAGE): PKG_CHECK_MODULES that adds what is not found, and Debian's package of it, to
dnl $mesh_missing, so that configure can name all at once.
AC_DEFUN([MESH_NEEDS], [
	PKG_CHECK_MODULES([$1], [$2], [], [mesh_missing="$mesh_missing
  $2 (Debian's package: $3)"])
])

dnl MESH_ADD_CFLAGS(FLAG...): adds to MESH_CFLAGS each flag that the compiler takes without a warning.
AC_DEFUN([MESH_ADD_CFLAGS], [m4_map_args([_MESH_ADD_CFLAG], $@)])
AC_DEFUN([_MESH_ADD_CFLAG], [
	AS_VAR_PUSHDEF([cached], [mesh_cv_cflag_$1])
	AC_CACHE_CHECK([whether $CC takes $1], [cached], [
		mesh_save_CFLAGS=$CFLAGS
		CFLAGS="$CFLAGS $MESH_CFLAGS -Werror $1"
		AC_COMPILE_IFELSE([AC_LANG_SOURCE([[int used(void); int used(void) { return 0; }]])],
			[AS_VAR_SET([cached], [yes])], [AS_VAR_SET([cached], [no])])
		CFLAGS=$mesh_save_CFLAGS])
	AS_VAR_IF([cached], [yes], [MESH_CFLAGS="$MESH_CFLAGS $1"])
	AS_VAR_POPDEF([cached])
])

dnl MESH_ADD_LDFLAGS(FLAG...): adds to MESH_LDFLAGS each flag that links.
AC_DEFUN([MESH_ADD_LDFLAGS], [m4_map_args([_MESH_ADD_LDFLAG], $@)])
AC_DEFUN([_MESH_ADD_LDFLAG], [
	AS_VAR_PUSHDEF([cached], [mesh_cv_ldflag_$1])
	AC_CACHE_CHECK([whether the linker takes $1], [cached], [
		mesh_save_LDFLAGS=$LDFLAGS
		LDFLAGS="$LDFLAGS $1"
		AC_LINK_IFELSE([AC_LANG_PROGRAM()], [AS_VAR_SET([cached], [yes])], [AS_VAR_SET([cached], [no])])
		LDFLAGS=$mesh_save_LDFLAGS])
	AS_VAR_IF([cached], [yes], [MESH_LDFLAGS="$MESH_LDFLAGS $1"])
	AS_VAR_POPDEF([cached])
])

dnl MESH_CHECK_FORTIFY: the highest level of _FORTIFY_SOURCE that the C library knows, for MESH_CPPFLAGS. A level that the
dnl caller has set stays.
AC_DEFUN([MESH_CHECK_FORTIFY], [
	AC_CACHE_CHECK([for the level of _FORTIFY_SOURCE], [mesh_cv_fortify], [
		mesh_cv_fortify=none
		mesh_save_CPPFLAGS=$CPPFLAGS
		AS_CASE(["$CPPFLAGS $CFLAGS"], [*_FORTIFY_SOURCE*], [mesh_cv_fortify=given], [
			for level in 3 2; do
				CPPFLAGS="$mesh_save_CPPFLAGS -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=$level"
				AC_COMPILE_IFELSE([AC_LANG_SOURCE([[
					#include <string.h>
					#if __USE_FORTIFY_LEVEL != _FORTIFY_SOURCE
					#error "another level"
					#endif
					int unused;]])], [mesh_cv_fortify=$level; break])
			done])
		CPPFLAGS=$mesh_save_CPPFLAGS])
	AS_CASE([$mesh_cv_fortify],
		[2|3], [MESH_CPPFLAGS="$MESH_CPPFLAGS -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=$mesh_cv_fortify"])
])

dnl MESH_CHECK_VERSION_SCRIPT: does the linker know version scripts?
AC_DEFUN([MESH_CHECK_VERSION_SCRIPT], [
	AC_CACHE_CHECK([whether the linker takes a version script], [mesh_cv_version_script], [
		mesh_save_LDFLAGS=$LDFLAGS
		LDFLAGS="$LDFLAGS -shared -fPIC -Wl,--version-script=$srcdir/libmesh/libmesh.map"
		AC_LINK_IFELSE([AC_LANG_SOURCE([[int mesh_open(void); int mesh_open(void) { return 0; }]])],
			[mesh_cv_version_script=yes], [mesh_cv_version_script=no])
		LDFLAGS=$mesh_save_LDFLAGS])
	AM_CONDITIONAL([HAVE_VERSION_SCRIPT], [test "x$mesh_cv_version_script" = xyes])
])
