// limits.cpp: the loops behind limits.hpp.
#include "limits.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

// Loops are written with the assembler's own .irp (one instruction sequence for each of a list of
// registers or offsets) and count whole rounds. Registers 0 to 11 hold the sums, 12 and 13 whatever
// lies between, 14 and 15 the operands. Only legacy register names are clobbered: what is built
// for the baseline does not use the others.
#define BENCH_CLOBBERS                                                                            \
  "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
      "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define BENCH_AVX_ROUNDS(reg, operand, sums, steps)                                            \
  __asm__ volatile("vzeroall\n\tvmovd %1, %%xmm14\n\tvpbroadcastd %%xmm14, %%" reg             \
                   "15\n\tvpbroadcastd %%xmm14, %%" reg "14\n\t.p2align 6\n1:\n\t.irp i," sums \
                   "\n\t" steps "\n\t.endr\n\tdec %0\n\tjnz 1b\n\tvzeroupper"                  \
                   : "+r"(rounds)                                                              \
                   : "r"(operand)                                                              \
                   : BENCH_CLOBBERS)
#define BENCH_TWELVE "0,1,2,3,4,5,6,7,8,9,10,11"
#define BENCH_LINES "0,64,128,192,256,320,384,448"

namespace bench {

namespace {

using lowbit::index_t;

#if LOWBIT_X86_64

constexpr std::uint32_t small_bytes = 0x05030402U;
constexpr std::uint32_t one_float = 0x3f800000U;

void vpdpbusd_512(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("zmm", small_bytes, BENCH_TWELVE, "vpdpbusd %%zmm14, %%zmm15, %%zmm\\i");
}
void vpdpbusd_256(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("ymm", small_bytes, BENCH_TWELVE, "%{vex%} vpdpbusd %%ymm14, %%ymm15, %%ymm\\i");
}
void vpmaddubsw_512(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("zmm", small_bytes, BENCH_TWELVE, "vpmaddubsw %%zmm14, %%zmm15, %%zmm\\i");
}
void vpmaddubsw_256(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("ymm", small_bytes, BENCH_TWELVE, "vpmaddubsw %%ymm14, %%ymm15, %%ymm\\i");
}
void pmaddwd_128(std::uint64_t rounds) noexcept {
  __asm__ volatile("pxor %%xmm15, %%xmm15\n\t.p2align 6\n1:\n\t.irp i," BENCH_TWELVE
                   "\n\tpmaddwd %%xmm15, %%xmm\\i\n\t.endr\n\tdec %0\n\tjnz 1b"
                   : "+r"(rounds)
                   :
                   : BENCH_CLOBBERS);
}
void vpopcntq_512(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("zmm", small_bytes, BENCH_TWELVE,
                   "vpandq %%zmm14, %%zmm15, %%zmm12\n\tvpopcntq %%zmm12, %%zmm12\n\t"
                   "vpaddq %%zmm12, %%zmm\\i, %%zmm\\i");
}
// The popcount of AVX2 (Mula): two look-ups of nibbles, counts kept in bytes. Register 10 holds
// the table, 11 the mask of nibbles; what they hold does not matter for the time.
void vpshufb_512(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("zmm", small_bytes, "0,1,2,3,4,5,6,7",
                   "vpandq %%zmm14, %%zmm15, %%zmm12\n\tvpsrlw $4, %%zmm12, %%zmm13\n\t"
                   "vpandq %%zmm12, %%zmm11, %%zmm12\n\tvpandq %%zmm13, %%zmm11, %%zmm13\n\t"
                   "vpshufb %%zmm12, %%zmm10, %%zmm12\n\tvpshufb %%zmm13, %%zmm10, %%zmm13\n\t"
                   "vpaddb %%zmm12, %%zmm13, %%zmm12\n\tvpaddb %%zmm12, %%zmm\\i, %%zmm\\i");
}
void vpshufb_256(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("ymm", small_bytes, "0,1,2,3,4,5,6,7",
                   "vpand %%ymm14, %%ymm15, %%ymm12\n\tvpsrlw $4, %%ymm12, %%ymm13\n\t"
                   "vpand %%ymm12, %%ymm11, %%ymm12\n\tvpand %%ymm13, %%ymm11, %%ymm13\n\t"
                   "vpshufb %%ymm12, %%ymm10, %%ymm12\n\tvpshufb %%ymm13, %%ymm10, %%ymm13\n\t"
                   "vpaddb %%ymm12, %%ymm13, %%ymm12\n\tvpaddb %%ymm12, %%ymm\\i, %%ymm\\i");
}
void popcnt_64(std::uint64_t rounds) noexcept {
  std::uint64_t x = 0x123456789abcdefU;
  __asm__ volatile(
      ".p2align 6\n1:\n\t.irp i,8,9,10,11\n\tmov %1, %%rax\n\tand %1, %%rax\n\t"
      "popcnt %%rax, %%rax\n\tadd %%rax, %%r\\i\n\t.endr\n\tdec %0\n\tjnz 1b"
      : "+r"(rounds), "+r"(x)
      :
      : "cc", "rax", "r8", "r9", "r10", "r11");
}
// Look-ups of 5 signs in tables of bytes, times +-1, added up (kernels/sign_gemm), without making
// indices and factors.
void vpermb_512(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("zmm", small_bytes, BENCH_TWELVE,
                   "vpermb %%zmm14, %%zmm15, %%zmm12\n\tvpdpbusd %%zmm15, %%zmm12, %%zmm\\i");
}
void vpshufb_sums_256(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("ymm", small_bytes, "0,1,2,3,4,5,6,7",
                   "vpshufb %%ymm14, %%ymm15, %%ymm12\n\tvpshufb %%ymm14, %%ymm15, %%ymm13\n\t"
                   "vpunpcklbw %%ymm13, %%ymm12, %%ymm11\n\t"
                   "vpunpckhbw %%ymm13, %%ymm12, %%ymm12\n\t"
                   "vpmaddubsw %%ymm15, %%ymm11, %%ymm11\n\t"
                   "vpmaddubsw %%ymm15, %%ymm12, %%ymm12\n\t"
                   "vpaddw %%ymm11, %%ymm\\i, %%ymm\\i\n\t"
                   "vpaddw %%ymm12, %%ymm\\i, %%ymm\\i");
}
// One 64-bit word by adds and masks (what a CPU without popcnt does), in SSE2's 128 bits.
void swar_128(std::uint64_t rounds) noexcept {
  __asm__ volatile(
      ".p2align 6\n1:\n\t.irp i,0,1,2,3,4,5,6,7\n\t"
      "movdqa %%xmm14, %%xmm12\n\tpand %%xmm15, %%xmm12\n\t"
      "movdqa %%xmm12, %%xmm13\n\tpsrlw $1, %%xmm13\n\tpand %%xmm11, %%xmm13\n\t"
      "psubb %%xmm13, %%xmm12\n\tmovdqa %%xmm12, %%xmm13\n\tpsrlw $2, %%xmm13\n\t"
      "pand %%xmm10, %%xmm12\n\tpand %%xmm10, %%xmm13\n\tpaddb %%xmm13, %%xmm12\n\t"
      "movdqa %%xmm12, %%xmm13\n\tpsrlw $4, %%xmm13\n\tpaddb %%xmm13, %%xmm12\n\t"
      "pand %%xmm9, %%xmm12\n\tpaddb %%xmm12, %%xmm\\i\n\t.endr\n\tdec %0\n\tjnz 1b"
      : "+r"(rounds)
      :
      : BENCH_CLOBBERS);
}
void vfmadd_512(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("zmm", one_float, BENCH_TWELVE, "vfmadd231ps %%zmm14, %%zmm15, %%zmm\\i");
}
void vfmadd_256(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("ymm", one_float, BENCH_TWELVE, "vfmadd231ps %%ymm14, %%ymm15, %%ymm\\i");
}
void vfmadd_pd_512(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("zmm", one_float, BENCH_TWELVE, "vfmadd231pd %%zmm14, %%zmm15, %%zmm\\i");
}
void vfmadd_pd_256(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("ymm", one_float, BENCH_TWELVE, "vfmadd231pd %%ymm14, %%ymm15, %%ymm\\i");
}
void vaddps_512(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("zmm", one_float, BENCH_TWELVE, "vaddps %%zmm14, %%zmm\\i, %%zmm\\i");
}
void vaddps_256(std::uint64_t rounds) noexcept {
  BENCH_AVX_ROUNDS("ymm", one_float, BENCH_TWELVE, "vaddps %%ymm14, %%ymm\\i, %%ymm\\i");
}
void addps_128(std::uint64_t rounds) noexcept {
  __asm__ volatile(
      ".irp i," BENCH_TWELVE
      ",14\n\txorps %%xmm\\i, %%xmm\\i\n\t.endr\n\t.p2align 6\n1:\n\t.irp i," BENCH_TWELVE
      "\n\taddps %%xmm14, %%xmm\\i\n\t.endr\n\tdec %0\n\tjnz 1b"
      : "+r"(rounds)
      :
      : BENCH_CLOBBERS);
}
void mulps_addps_128(std::uint64_t rounds) noexcept {
  __asm__ volatile(
      ".irp i," BENCH_TWELVE
      ",14,15\n\txorps %%xmm\\i, %%xmm\\i\n\t.endr\n\t.p2align 6\n1:\n\t.irp i," BENCH_TWELVE
      "\n\tmovaps %%xmm14, %%xmm12\n\tmulps %%xmm15, %%xmm12\n\taddps %%xmm12, %%xmm\\i\n\t"
      ".endr\n\tdec %0\n\tjnz 1b"
      : "+r"(rounds)
      :
      : BENCH_CLOBBERS);
}

constexpr instruction_limit all_instruction_limits[] = {
    {"vpdpbusd/avx512_vnni", operation::int8_mac, cpu::avx512_core | cpu::avx512_vnni,
     &vpdpbusd_512, 12 * 64},
    {"vpmaddubsw/avx512bw", operation::int8_mac, cpu::avx512_core, &vpmaddubsw_512, 12 * 64},
    {"vpdpbusd/avx_vnni", operation::int8_mac, cpu::avx2_core | cpu::avx_vnni, &vpdpbusd_256,
     12 * 32},
    {"vpmaddubsw/avx2", operation::int8_mac, cpu::avx2_core, &vpmaddubsw_256, 12 * 32},
    {"pmaddwd/sse2", operation::int8_mac, cpu::none, &pmaddwd_128, 12 * 8},
    {"and_vpopcntq_add/avx512_vpopcntdq", operation::bit_mac,
     cpu::avx512_core | cpu::avx512_vpopcntdq, &vpopcntq_512, 12 * 512},
    {"and_vpshufb_add/avx512bw", operation::bit_mac, cpu::avx512_core, &vpshufb_512, 8 * 512},
    {"and_vpshufb_add/avx2", operation::bit_mac, cpu::avx2_core, &vpshufb_256, 8 * 256},
    {"and_popcnt_add/popcnt", operation::bit_mac, cpu::popcnt, &popcnt_64, 4 * 64},
    {"and_swar_add/sse2", operation::bit_mac, cpu::none, &swar_128, 8 * 128},
    {"vpermb_vpdpbusd/avx512_vbmi_vnni", operation::look_up, cpu::avx512_core | cpu::avx512_bytes,
     &vpermb_512, 12 * 320},
    {"vpshufb_vpmaddubsw/avx2", operation::look_up, cpu::avx2_core, &vpshufb_sums_256, 8 * 320},
    {"vfmadd231ps/avx512f", operation::float_mac, cpu::avx512_core, &vfmadd_512, 12 * 16},
    {"vfmadd231ps/avx2", operation::float_mac, cpu::avx2_core, &vfmadd_256, 12 * 8},
    {"mulps_addps/sse2", operation::float_mac, cpu::none, &mulps_addps_128, 12 * 4},
    {"vfmadd231pd/avx512f", operation::double_fma, cpu::avx512_core, &vfmadd_pd_512, 12 * 8},
    {"vfmadd231pd/avx2", operation::double_fma, cpu::avx2_core, &vfmadd_pd_256, 12 * 4},
    {"vaddps/avx512f", operation::float_add, cpu::avx512_core, &vaddps_512, 12 * 16},
    {"vaddps/avx2", operation::float_add, cpu::avx2_core, &vaddps_256, 12 * 8},
    {"addps/sse2", operation::float_add, cpu::none, &addps_128, 12 * 4},
};

#define BENCH_READ(load, reg, prefetch)                                         \
  __asm__ volatile(".p2align 6\n1:\n\t.irp o," BENCH_LINES "\n\t" load prefetch \
                   "\n\t.endr\n\tadd $512, %0\n\tsub $512, %1\n\tjnz 1b" reg    \
                   : "+r"(p), "+r"(bytes)                                       \
                   :                                                            \
                   : BENCH_CLOBBERS)
#define BENCH_LOAD_512 "vmovdqa64 \\o(%0), %%zmm0"
#define BENCH_LOAD_256 "vmovdqa \\o(%0), %%ymm0\n\tvmovdqa \\o+32(%0), %%ymm1"
#define BENCH_LOAD_128                                      \
  "movdqa \\o(%0), %%xmm0\n\tmovdqa \\o+16(%0), %%xmm1\n\t" \
  "movdqa \\o+32(%0), %%xmm2\n\tmovdqa \\o+48(%0), %%xmm3"
#define BENCH_NEAR "\n\tprefetcht0 \\o+1024(%0)"
#define BENCH_FAR "\n\tprefetcht0 \\o+8192(%0)"
#define BENCH_LEAVE "\n\tvzeroupper"

void read_512(const std::byte* p, std::size_t bytes) noexcept {
  BENCH_READ(BENCH_LOAD_512, BENCH_LEAVE, "");
}
void read_512_near(const std::byte* p, std::size_t bytes) noexcept {
  BENCH_READ(BENCH_LOAD_512, BENCH_LEAVE, BENCH_NEAR);
}
void read_512_far(const std::byte* p, std::size_t bytes) noexcept {
  BENCH_READ(BENCH_LOAD_512, BENCH_LEAVE, BENCH_FAR);
}
void read_256(const std::byte* p, std::size_t bytes) noexcept {
  BENCH_READ(BENCH_LOAD_256, BENCH_LEAVE, "");
}
void read_256_near(const std::byte* p, std::size_t bytes) noexcept {
  BENCH_READ(BENCH_LOAD_256, BENCH_LEAVE, BENCH_NEAR);
}
void read_256_far(const std::byte* p, std::size_t bytes) noexcept {
  BENCH_READ(BENCH_LOAD_256, BENCH_LEAVE, BENCH_FAR);
}
void read_128(const std::byte* p, std::size_t bytes) noexcept {
  BENCH_READ(BENCH_LOAD_128, "", "");
}
void read_128_near(const std::byte* p, std::size_t bytes) noexcept {
  BENCH_READ(BENCH_LOAD_128, "", BENCH_NEAR);
}
void read_128_far(const std::byte* p, std::size_t bytes) noexcept {
  BENCH_READ(BENCH_LOAD_128, "", BENCH_FAR);
}

constexpr read_loop all_read_loops[] = {
    {"avx512", cpu::avx512_core, &read_512},
    {"avx512_prefetch_1k", cpu::avx512_core, &read_512_near},
    {"avx512_prefetch_8k", cpu::avx512_core, &read_512_far},
    {"avx2", cpu::avx2_core, &read_256},
    {"avx2_prefetch_1k", cpu::avx2_core, &read_256_near},
    {"avx2_prefetch_8k", cpu::avx2_core, &read_256_far},
    {"sse2", cpu::none, &read_128},
    {"sse2_prefetch_1k", cpu::none, &read_128_near},
    {"sse2_prefetch_8k", cpu::none, &read_128_far},
};

#elif LOWBIT_AARCH64

#define BENCH_NEON_ROUNDS(steps)                                                                \
  __asm__ volatile("1:\n\t.irp i,0,1,2,3,4,5,6,7,16,17,18,19\n\t" steps                         \
                   "\n\t.endr\n\tsubs %0, %0, #1\n\tb.ne 1b"                                    \
                   : "+r"(rounds)                                                               \
                   :                                                                            \
                   : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", \
                     "v19", "v28")

void sdot_128(std::uint64_t rounds) noexcept {
  // sdot v<i>.4s, v30.16b, v31.16b: spelled as a number because the baseline's assembler refuses
  // it.
  BENCH_NEON_ROUNDS(".inst 0x4e9f97c0 + \\i");
}
void smlal_128(std::uint64_t rounds) noexcept {
  BENCH_NEON_ROUNDS("smlal v\\i\\().8h, v30.8b, v31.8b");
}
void cnt_128(std::uint64_t rounds) noexcept {
  BENCH_NEON_ROUNDS(
      "and v28.16b, v30.16b, v31.16b\n\tcnt v28.16b, v28.16b\n\t"
      "add v\\i\\().16b, v\\i\\().16b, v28.16b");
}
void tbl_128(std::uint64_t rounds) noexcept {
  BENCH_NEON_ROUNDS(
      "tbl v28.16b, {v30.16b}, v31.16b\n\tsmlal v\\i\\().8h, v31.8b, v28.8b\n\t"
      "smlal2 v\\i\\().8h, v31.16b, v28.16b");
}
void fmla_128(std::uint64_t rounds) noexcept {
  __asm__ volatile("movi v30.4s, #0\n\tmovi v31.4s, #0" : : : "v30", "v31");
  BENCH_NEON_ROUNDS("fmla v\\i\\().4s, v30.4s, v31.4s");
}
void fadd_128(std::uint64_t rounds) noexcept {
  __asm__ volatile("movi v31.4s, #0" : : : "v31");
  BENCH_NEON_ROUNDS("fadd v\\i\\().4s, v\\i\\().4s, v31.4s");
}
void fmla_2d_128(std::uint64_t rounds) noexcept {
  __asm__ volatile("movi v30.4s, #0\n\tmovi v31.4s, #0" : : : "v30", "v31");
  BENCH_NEON_ROUNDS("fmla v\\i\\().2d, v30.2d, v31.2d");
}

constexpr instruction_limit all_instruction_limits[] = {
    {"sdot/neon_dotprod", operation::int8_mac, cpu::neon | cpu::neon_dotprod, &sdot_128, 12 * 16},
    {"smlal/neon", operation::int8_mac, cpu::none, &smlal_128, 12 * 8},
    {"and_cnt_add/neon", operation::bit_mac, cpu::none, &cnt_128, 12 * 128},
    {"tbl_smlal/neon", operation::look_up, cpu::neon, &tbl_128, 12 * 80},
    {"fmla/neon", operation::float_mac, cpu::none, &fmla_128, 12 * 4},
    {"fmla_2d/neon", operation::double_fma, cpu::neon, &fmla_2d_128, 12 * 2},
    {"fadd/neon", operation::float_add, cpu::none, &fadd_128, 12 * 4},
};

#define BENCH_READ(prefetch)                                          \
  __asm__ volatile(                                                   \
      "1:\n\t.irp o,0,64,128,192\n\tldp q0, q1, [%0, #\\o]\n\t"       \
      "ldp q2, q3, [%0, #\\o+32]" prefetch                            \
      "\n\t.endr\n\tadd %0, %0, #256\n\tsubs %1, %1, #256\n\tb.ne 1b" \
      : "+r"(p), "+r"(bytes)                                          \
      :                                                               \
      : "cc", "memory", "v0", "v1", "v2", "v3")

void read_neon(const std::byte* p, std::size_t bytes) noexcept { BENCH_READ(""); }
void read_neon_near(const std::byte* p, std::size_t bytes) noexcept {
  BENCH_READ("\n\tprfm pldl1keep, [%0, #\\o+1024]");
}
void read_neon_far(const std::byte* p, std::size_t bytes) noexcept {
  BENCH_READ("\n\tprfm pldl1keep, [%0, #\\o+8192]");
}

constexpr read_loop all_read_loops[] = {
    {"neon", cpu::none, &read_neon},
    {"neon_prefetch_1k", cpu::none, &read_neon_near},
    {"neon_prefetch_8k", cpu::none, &read_neon_far},
};

#else
#error "limits.cpp knows x86-64 and AArch64"
#endif

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

double instruction_limit::measure() const noexcept {
  constexpr std::uint64_t rounds = 200'000;  // 1 ms where 12 steps take 6 cycles
  const double begin = cpu_seconds();
  run(rounds);
  return static_cast<double>(rounds) * macs_per_round / (cpu_seconds() - begin);
}

std::span<const instruction_limit> instruction_limits() noexcept { return all_instruction_limits; }

const instruction_limit* find_limit(operation what, cpu::cpu_set allowed) noexcept {
  for (const instruction_limit& limit : all_instruction_limits) {
    if (limit.what == what && allowed.contains(limit.needs)) return &limit;
  }
  return nullptr;
}

std::span<const read_loop> read_loops() noexcept { return all_read_loops; }

read_limit::read_limit(std::size_t bytes) : buffer_(lowbit::div_up(bytes, window) * window) {
  const cpu::cpu_set machine = cpu::detect();
  std::vector<std::vector<double>> rates(std::size(all_read_loops));
  for (int i = 0; i < 7; ++i) {
    for (std::size_t l = 0; l < rates.size(); ++l) {
      if (!machine.contains(all_read_loops[l].needs)) continue;
      rates[l].push_back(measure(all_read_loops[l]));
    }
  }
  double best = -1;
  for (std::size_t l = 0; l < rates.size(); ++l) {
    const double rate = median(rates[l]);
    if (rates[l].empty() || rate <= best) continue;
    best = rate;
    best_ = &all_read_loops[l];
  }
}

double read_limit::measure(const read_loop& loop) noexcept {
  const std::byte* const begin = buffer_.data() + next_;
  next_ = (next_ + window) % buffer_.size();
  // A hypervisor may have unmapped the pages meanwhile; finding them again is no reading. One line
  // of every 64 KiB is next to nothing of the window.
  for (std::size_t i = 0; i < window; i += std::size_t{64} << 10U) {
    static_cast<void>(*static_cast<const volatile std::byte*>(begin + i));
  }
  const double start = cpu_seconds();
  loop.run(begin, window);
  return static_cast<double>(window) / (cpu_seconds() - start);
}

std::size_t memory_share() noexcept {
  // Both what the machine has and what a container may have; 1 GiB where neither is said.
  const auto read_number = [](const char* path, const char* format) {
    unsigned long long value = 0;
    bool found = false;
    if (std::FILE* const file = std::fopen(path, "r")) {
      char line[256];
      while (!found && std::fgets(line, sizeof line, file) != nullptr) {
        found = std::sscanf(line, format, &value) == 1;
      }
      std::fclose(file);
    }
    return found ? static_cast<std::size_t>(value) : std::size_t{0};
  };
  std::size_t available = read_number("/proc/meminfo", "MemAvailable: %llu kB") << 10U;
  if (available == 0) available = std::size_t{1} << 30U;
  const std::size_t most = read_number("/sys/fs/cgroup/memory.max", "%llu");  // "max": no limit
  const std::size_t used = read_number("/sys/fs/cgroup/memory.current", "%llu");
  if (most != 0) available = std::min(available, most > used ? most - used : 0);
  return available / 3;
}

}  // namespace bench
