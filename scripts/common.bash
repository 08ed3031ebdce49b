# Sourced by the scripts beside it: the checkout's root, messages, and the packages.

ROOT=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
readonly ROOT PROG=${0##*/}

note() { printf '%s\n' "$*"; }
die() {
  printf '%s: error: %s\n' "$PROG" "$*" >&2
  exit 1
}

# need_packages PACKAGE...: installs the Debian or Ubuntu packages that are missing, as root or with
# sudo. Where there is no apt it names them and goes on: CMake says what it cannot find.
need_packages() {
  local package missing=() as_root=()
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    note "no apt here; what Debian calls $* must be installed already"
    return
  fi
  for package in "$@"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
      missing+=("$package")
  done
  if [[ ${#missing[@]} -eq 0 ]]; then
    note "all $# packages are installed"
    return
  fi
  if [[ $(id -u) -ne 0 ]]; then
    command -v sudo >/dev/null || die "run as root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  note "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq || note "apt-get update failed; trying with the lists at hand"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    die "apt-get could not install ${missing[*]}"
}

# What it takes to build lowbit::io and the examples.
readonly BUILD_PACKAGES=(cmake g++ ninja-build libeigen3-dev libxsimd-dev nlohmann-json3-dev
  libxxhash-dev libcli11-dev)
# What it takes beside them to build examples/whisper.
# shellcheck disable=SC2034
readonly WHISPER_PACKAGES=(libkissfft-dev libsamplerate0-dev libsndfile1-dev pkg-config)
# What it takes beside them to build and run all tests. Of libtbb-dev and libomp-dev (clang's OpenMP)
# nothing but the tests of lowbit/executors/ has need.
# shellcheck disable=SC2034
readonly TEST_PACKAGES=(binutils catch2 clang libbenchmark-dev libomp-dev libtbb-dev pkg-config
  python3)

# How many compilers run at the same time: one per core, but no more than one per 1.5 GiB of memory.
build_jobs() {
  local cores memory_kib jobs
  cores=$(nproc)
  memory_kib=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)
  jobs=$((memory_kib / 1572864))
  ((jobs < cores)) || jobs=$cores
  ((jobs > 0)) || jobs=1
  printf '%s\n' "$jobs"
}

# Prints the name of a python3 that has module $1: what Debian packages belongs to Debian's python3,
# which another one may hide.
python_with() {
  local python
  for python in python3 /usr/bin/python3; do
    if "$python" -c "import $1" 2>/dev/null; then
      printf '%s\n' "$python"
      return
    fi
  done
  return 1
}
