# Sourced by scripts that fetch programs for tests; `cache` says where they are kept.

# A folder named after what is in it, made under a lock, for tests run side by side.
folder_for() { # NAME FILE…
  local name=$1
  shift
  folder=$cache/$name-$(cat "$@" | sha256sum | cut -c1-16)
  mkdir -p "$folder"
  exec 9>"$folder/lock"
  flock 9
}
