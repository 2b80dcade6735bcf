# Completion of `mesh` in fish: commands, options, and the names of services on this host.
complete -c mesh -f -a '(mesh complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
