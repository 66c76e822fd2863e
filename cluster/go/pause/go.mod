module trimtab.dev/cluster/pause

go 1.25
