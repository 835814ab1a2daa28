"""What `launch/tpu` does: TPU VMs by Google's queued resources, from one host to several slices. See docs/launching.md.

Only the standard library, and nothing newer than Python 3.9: this runs on a laptop before sslax's environment exists.

  cli            words -> a pod and a command -> an exit code
  flags          commands, flags and their help
  options        what the flags come to, checked
  memory         what this machine knows of a pod: $SSLAX_HOME/tpu/NAME (default: ~/.sslax)
  settings       the environment variables
  errors, codes  how it ends
  processes      a program is run, shown, or written down; quoting: as a shell would need it
  gcloud         command lines of gcloud, and its answers
  pod            looks at a pod and its nodes; hosts: a command on all of its hosts
  lifecycle      create, delete
  snapshot       the code that is sent; setup: code and environment on every host
  training       run, kill; report: status, logs, ssh
  watch          what `watch` does next, decided; watcher: done
  doctor         what would go wrong

The other side is launch/lib/worker.sh, which runs on each host. Nothing is done to a resource without our label sslax=NAME.
"""
