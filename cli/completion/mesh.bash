# Completion of `mesh` in bash: commands, options, and the names of services on this host.
_mesh()
{
	local IFS=$'\n'
	local words=("${COMP_WORDS[@]:1:COMP_CWORD}")

	COMPREPLY=($("${COMP_WORDS[0]}" complete -- "${words[@]}" 2>/dev/null))
}
complete -o default -F _mesh mesh
