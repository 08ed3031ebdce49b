// app.cpp: the command line. Knows no format.
#include "app.hpp"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "budget.hpp"
#include "job.hpp"
#include "lowbit/io/atomic_file.hpp"
#include "report.hpp"

namespace quantize_model {
namespace {

constexpr int exit_error = 1;
constexpr int exit_interrupted = 130;  // what shells report for Ctrl-C

class app {
 public:
  explicit app(format_entries formats) : formats_(std::move(formats)) {}

  /// Parses and runs one command line. Returns the exit code; errors go to stderr as one line.
  int run(int argc, const char* const* argv) {
    try {
      cli_.require_subcommand(1);
      cli_.set_version_flag("--version", LOWBIT_VERSION_STRING);
      add_quantize(argc, argv);
      add_compare();
      add_inspect();
      add_formats();
      cli_.parse(argc, argv);
      return 0;
    } catch (const CLI::ParseError& e) {
      return cli_.exit(e);
    } catch (const lowbit::cancelled_error&) {
      std::fprintf(stderr, "quantize_model: interrupted; no file was written\n");
      return exit_interrupted;
    } catch (const std::exception& e) {
      std::fprintf(stderr, "quantize_model: error: %s\n", e.what());
      return exit_error;
    }
  }

 private:
  /// The value of --format before the real parse, because the other options depend on it.
  [[nodiscard]] std::string find_format(int argc, const char* const* argv) const {
    const std::string_view option = "--format";
    std::string_view found;
    if (!formats_.empty()) found = formats_.front().name;
    for (int i = 1; i < argc; ++i) {
      const std::string_view arg = argv[i];
      if (arg == option && i + 1 < argc) found = argv[i + 1];
      if (arg.substr(0, option.size() + 1) == "--format=") found = arg.substr(option.size() + 1);
    }
    return std::string(found);
  }

  /// Adds one option per field ("--group-size" for group_size) that writes its text to fields_.
  void add_field_options(CLI::App& command, const std::string& group,
                         const std::vector<field_text>& fields) {
    for (const field_text& f : fields) {
      std::string option = "--" + f.name;
      std::replace(option.begin(), option.end(), '_', '-');
      command
          .add_option_function<std::string>(
              option, [this, name = f.name](const std::string& text) { fields_[name] = text; },
              f.help + " (" + f.values + ", default " + f.value + ")")
          ->group(group);
    }
  }

  void add_input_options(CLI::App& command) {
    command.add_option("IN", input_, "model: safetensors, or Whisper ggml (.bin)")->required();
    command.add_option("--include", include_, "quantize matrices whose name matches this regex")
        ->capture_default_str();
    command.add_option("--exclude", exclude_, "but not those whose name matches this one");
    command.add_option(
        "--calibrate,--activations", activations_,
        "calibration file of `whisper calibrate`, or safetensors file with rows of layers' inputs: "
        "LAYER.input.calibration to fit to, LAYER.input.heldout to judge by, "
        "LAYER.input.distorted as they come from quantized layers (default: IN itself)");
    command
        .add_option("--holdout", options_.holdout,
                    "share of the calibration rows to judge by, where there are no held-out ones")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str();
    command.add_flag("--importance", options_.use_importance,
                     "weigh columns by the energy of their calibration activations");
    command.add_flag("--distortion", options_.distortion,
                     "measure manifold distortion beside e^T H e, and how far they agree");
    command.add_option("--jobs", options_.jobs, "tensors quantized at the same time")
        ->check(CLI::Range(1, 256))
        ->capture_default_str();
  }

  void add_quantize(int argc, const char* const* argv) {
    CLI::App& command = *cli_.add_subcommand("quantize", "quantize a model into a checkpoint");
    add_input_options(command);
    command.add_option("-o,--output", output_, "safetensors file to write")->required();
    command.add_option("--report", report_, "write the table as JSON to this file");
    format_ = find_format(argc, argv);
    command.add_option("--format", format_, "how to quantize: see `quantize_model formats`")
        ->capture_default_str();
    // An unknown name is refused when the command runs, so that --help works whatever it is.
    for (const format_entry& entry : formats_) {
      if (entry.name == format_) {
        add_field_options(command, "Parameters of format " + entry.name, default_fields(entry));
      }
    }
    add_field_options(command, "Recipe", list_fields(treatment{}));
    const std::string some = "Some tensors otherwise";
    command
        .add_option(
            "--set", overrides_,
            "REGEX:name=value,...: other fields (or format=NAME) for tensors whose name "
            "matches, such as token_embedding:bits=4,feedback=none; repeat it, later ones win")
        ->group(some);
    command
        .add_option("--budget", budget_,
                    "mixed precision: bits per weight, everything counted, of the tensors that no "
                    "--set names; each gets the --candidate that loses least in all (measured with "
                    "the calibration, in nats if it has sensitivities)")
        ->check(CLI::Range(0.0, 64.0))
        ->group(some);
    command
        .add_option("--candidate", candidates_,
                    "name=value,... for --budget, such as bits=2; repeat it, from small to large")
        ->group(some);
    command.callback([this] { quantize(); });
  }

  void add_compare() {
    CLI::App& command =
        *cli_.add_subcommand("compare", "quantize a model in several ways into one table");
    add_input_options(command);
    command
        .add_option("--config", configurations_,
                    "FORMAT[:name=value,...], such as uniform:bits=4,group_size=64; repeat it")
        ->required();
    command.add_option("--output-dir", output_dir_, "write each result there as a checkpoint");
    command.add_flag("--per-tensor", per_tensor_,
                     "a second table: the output error of each tensor");
    command.callback([this] { compare(); });
  }

  void add_inspect() {
    CLI::App& command =
        *cli_.add_subcommand("inspect", "list what a model file holds and verify its checksums");
    command.add_option("FILE", input_, "safetensors file, checkpoint or Whisper ggml file")
        ->required();
    command.callback([this] { inspect(); });
  }

  void add_formats() {
    cli_.add_subcommand("formats", "list the formats with their parameters")->callback([this] {
      for (const format_entry& entry : formats_) {
        std::printf("%s (version %u): %s\n", entry.name.c_str(),
                    static_cast<unsigned>(entry.version), entry.summary.c_str());
        table fields({"  parameter", "values", "default", "meaning"});
        for (const field_text& f : default_fields(entry)) {
          fields.add({"  " + f.name, f.values, f.value, f.help});
        }
        fields.print(stdout);
      }
      std::printf("recipe: with any format that has groups of levels\n");
      table fields({"  parameter", "values", "default", "meaning"});
      for (const field_text& f : list_fields(treatment{})) {
        fields.add({"  " + f.name, f.values, f.value, f.help});
      }
      fields.print(stdout);
    });
  }

  [[nodiscard]] selection selected() const {
    selection select{.include = parse_regex(include_, "--include"), .exclude = std::nullopt};
    if (!exclude_.empty()) select.exclude = parse_regex(exclude_, "--exclude");
    return select;
  }

  /// What one run gives.
  struct run_result {
    std::vector<tensor_result> tensors;
    run_totals totals;
    std::string configuration;  ///< of the tensors that nothing changes
    std::optional<budget_plan> budget = {};
  };

  /// Runs a request over the input; writes to `output` unless that is empty.
  [[nodiscard]] run_result run_job(const request& how, const std::filesystem::path& output) {
    const auto start = std::chrono::steady_clock::now();
    install_stop_handler();
    const source_model model(input_);
    std::optional<source_model> other;
    if (!activations_.empty()) other.emplace(activations_);
    const auto statistics = open_statistics(activations_.empty() ? input_ : activations_);
    std::vector<work_item> items =
        plan_work(model, other ? *other : model, selected(), statistics ? &*statistics : nullptr);
    const bool any = std::any_of(items.begin(), items.end(),
                                 [](const work_item& item) { return item.quantize; });
    LOWBIT_CHECK(any, value, "no float matrix of '", input_, "' is selected by --include '",
                 include_, "' and --exclude '", exclude_, "'");
    configurations made(formats_, how);
    const choice base = made.changed({}, "");
    choose(items, how, made);

    std::optional<lowbit::io::checkpoint_writer> writer;
    if (!output.empty()) {
      std::error_code missing;  // an output that is not there yet is not the input
      LOWBIT_CHECK(!std::filesystem::equivalent(input_, output, missing), value, "output '",
                   output.native(), "' is the input itself");
      writer.emplace(output);
      writer->set_provenance("tool", "quantize_model " LOWBIT_VERSION_STRING);
      writer->set_provenance("source", std::filesystem::path(input_).filename().string());
      writer->set_provenance("quantizer", base.how->describe());
    }
    std::optional<budget_plan> budget;
    if (how.budget) {
      budget = spend(items, how, made);
      for (std::size_t i = 0; i < budget->items.size(); ++i) {
        items[budget->items[i]].chosen = budget->chosen(i);
      }
      print_budget(*budget, *how.budget);
      if (writer) writer->set_provenance("budget", lowbit::detail::message(*how.budget));
    }
    if (writer) {
      for (const work_item& item : items) {
        const std::string changes = item.chosen.text();
        if (changes.empty()) continue;
        writer->set_provenance("quantizer of " + item.tensor->name, changes);
      }
    }
    quantization_job job(model, std::move(items), options_, writer ? &*writer : nullptr);
    std::vector<tensor_result> results = job.run();
    if (writer) writer->finish();
    const run_totals totals = sum_up(results, seconds_since(start));
    return {std::move(results), totals, base.how->describe(), std::move(budget)};
  }

  /// Gives each tensor its configuration. Refuses (value) overrides that match nothing.
  static void choose(std::vector<work_item>& items, const request& how, configurations& made) {
    std::vector<bool> used(how.overrides.size());
    for (work_item& item : items) {
      if (!item.quantize) continue;
      field_texts changes;
      std::string what;
      for (std::size_t i = 0; i < used.size(); ++i) {
        const override_rule& rule = how.overrides[i];
        if (!std::regex_search(item.tensor->name, rule.names)) continue;
        used[i] = true;
        item.is_fixed = true;
        what = "--set '" + rule.text + "', tensor '" + item.tensor->name + "'";
        for (const auto& [name, value] : rule.fields) changes[name] = value;
      }
      item.chosen = made.changed(changes, what);
    }
    for (std::size_t i = 0; i < used.size(); ++i) {
      LOWBIT_CHECK(used[i], value, "--set '", how.overrides[i].text,
                   "' matches no tensor that is to be quantized");
    }
  }

  [[nodiscard]] budget_plan spend(const std::vector<work_item>& items, const request& how,
                                  configurations& made) const {
    LOWBIT_CHECK(!how.candidates.empty(), value,
                 "--budget needs at least one --candidate, such as --candidate bits=2");
    std::vector<choice> candidates;
    for (const std::string& text : how.candidates) {
      const std::string what = "--candidate '" + text + "'";
      candidates.push_back(made.changed(parse_fields(text, what), what));
    }
    return budget_search(items, std::move(candidates), options_).run(*how.budget);
  }

  void quantize() {
    request how{.format = format_, .fields = fields_, .budget = budget_, .candidates = candidates_};
    for (const std::string& text : overrides_) how.overrides.push_back(parse_override(text));
    LOWBIT_CHECK(budget_ || candidates_.empty(), value, "--candidate is for --budget");
    const run_result made = run_job(how, output_);
    std::printf("%s\n", made.configuration.c_str());
    print_results(made.tensors, made.totals);
    if (options_.distortion) print_distortion(made.tensors);
    print_cost(made.totals);
    std::printf("wrote %s (%.2f MB)\n", output_.c_str(),
                static_cast<double>(std::filesystem::file_size(output_)) * 1e-6);
    if (report_.empty()) return;
    auto json = report_as_json(input_, made.configuration, made.tensors, made.totals);
    if (made.budget) json["budget"] = budget_as_json(*made.budget, *budget_);
    const std::string text = json.dump(2) + "\n";
    lowbit::io::atomic_file file(report_);
    file.write(std::as_bytes(std::span(text)));
    file.commit();
  }

  void compare() {
    std::vector<std::string> header{"configuration"};
    for (std::string& column : error_columns()) header.push_back(std::move(column));
    header.insert(header.end(), {"MB", "seconds"});
    table rows(std::move(header));
    std::vector<std::vector<tensor_result>> results;
    if (!output_dir_.empty()) std::filesystem::create_directories(output_dir_);
    bool has_outputs = false;
    for (const std::string& text : configurations_) {
      const auto colon = std::min(text.find(':'), text.size());
      request how{.format = text.substr(0, colon)};
      if (colon < text.size()) {
        how.fields = parse_fields(text.substr(colon + 1), "configuration '" + text + "'");
      }
      run_result made = run_job(how, output_for(text));
      const run_totals& totals = made.totals;
      std::vector<std::string> row{text};
      append_errors(row, errors_of(totals));
      row.push_back(show("%.2f", static_cast<double>(totals.stored_bytes()) * 1e-6));
      row.push_back(show("%.2f", totals.seconds));
      rows.add(std::move(row));
      results.push_back(std::move(made.tensors));
      has_outputs = has_outputs || totals.output_error || totals.calibration_error;
    }
    rows.print(stdout);
    print_legend(has_outputs);
    if (per_tensor_) {
      std::printf("\nheld-out outputs (bits/weight), by tensor\n");
      per_tensor_table(results).print(stdout);
    }
    if (options_.distortion) {
      for (std::size_t i = 0; i < results.size(); ++i) {
        std::printf("\n%s", configurations_[i].c_str());
        print_distortion(results[i]);
      }
    }
    if (!output_dir_.empty()) {
      std::printf("wrote %zu checkpoints to %s\n", configurations_.size(), output_dir_.c_str());
    }
  }

  /// A row for each configuration, a column for each quantized tensor.
  [[nodiscard]] table per_tensor_table(
      const std::vector<std::vector<tensor_result>>& results) const {
    std::vector<std::string> header{"configuration"};
    for (const tensor_result& r : results.front()) {
      if (r.quantized) header.push_back(r.name);
    }
    table rows(std::move(header));
    for (std::size_t i = 0; i < results.size(); ++i) {
      std::vector<std::string> row{configurations_[i]};
      for (const tensor_result& r : results[i]) {
        if (!r.quantized) continue;
        const reported_errors e = errors_of(r);
        row.push_back((e.output_error ? show("%.6f", *e.output_error) : "-") +
                      show(" (%.3f)", e.bits_per_weight));
      }
      rows.add(std::move(row));
    }
    return rows;
  }

  /// The file for a configuration in --output-dir; empty without one.
  [[nodiscard]] std::filesystem::path output_for(std::string configuration) const {
    if (output_dir_.empty()) return {};
    for (char& c : configuration) {
      const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.';
      if (!plain) c = '-';
    }
    return std::filesystem::path(output_dir_) / (configuration + ".safetensors");
  }

  void inspect() {
    if (examples::whisper_file::has_magic(lowbit::io::mapped_file(input_).bytes())) {
      return list_plain(examples::whisper_file(input_).tensors());
    }
    const auto reader = lowbit::io::checkpoint_reader::open(input_);
    if (!reader.is_quantized_checkpoint()) return list_plain(reader.file().tensors());
    for (const auto& [key, value] : reader.provenance()) {
      std::printf("%s: %s\n", key.c_str(), value.c_str());
    }
    table rows({"tensor", "stored as", "shape", "bits/weight", "bytes", "parameters"});
    for (const auto& entry : reader.entries()) {
      double weights = 1.0;
      for (const lowbit::index_t extent : entry.shape) weights *= static_cast<double>(extent);
      rows.add({entry.name,
                entry.is_quantized()
                    ? entry.format
                    : std::string(lowbit::io::dtype_name(entry.buffers.front()->type)),
                shape_text(entry.shape),
                show("%.4f", weights > 0.0 ? static_cast<double>(entry.bits) / weights : 0.0),
                lowbit::detail::message(entry.bits / 8), entry.params_json});
    }
    rows.print(stdout);
    reader.verify();
    std::printf("%zu tensors; all checksums are right\n", reader.entries().size());
  }

  static void list_plain(const std::vector<lowbit::io::stored_tensor>& tensors) {
    table rows({"tensor", "stored as", "shape", "bytes"});
    for (const auto& tensor : tensors) {
      rows.add({tensor.name, std::string(lowbit::io::dtype_name(tensor.type)),
                shape_text(tensor.shape), lowbit::detail::message(tensor.bytes.size())});
    }
    rows.print(stdout);
    std::printf("%zu tensors, none quantized by lowbit\n", tensors.size());
  }

  [[nodiscard]] static std::string shape_text(const std::vector<lowbit::index_t>& shape) {
    std::string text;
    for (const lowbit::index_t extent : shape) {
      text.append(text.empty() ? "" : " x ").append(lowbit::detail::message(extent));
    }
    return text.empty() ? "scalar" : text;
  }

  const format_entries formats_;
  CLI::App cli_{"Quantizes the weight matrices of a model, and looks into the result.",
                "quantize_model"};
  std::string input_;
  std::string output_;
  std::string output_dir_;
  std::string report_;
  std::string activations_;
  std::string include_ = "weight$";
  std::string exclude_;
  std::string format_;
  std::vector<std::string> overrides_;
  std::optional<double> budget_;
  std::vector<std::string> candidates_;
  std::vector<std::string> configurations_;
  bool per_tensor_ = false;
  field_texts fields_;
  job_options options_;
};

}  // namespace

int run_app(format_entries formats, int argc, const char* const* argv) {
  return app(std::move(formats)).run(argc, argv);
}

}  // namespace quantize_model
