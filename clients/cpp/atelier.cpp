// Pictures in, a trained model out, a picture from it: over gRPC through the gateway's one port.
// Usage: atelier FOLDER PICTURE.png [PROMPT]     (settings: see README.md)
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "atelier/catalog/v1/catalog_service.grpc.pb.h"
#include "atelier/generator/v1/generator_service.grpc.pb.h"
#include "atelier/trainer/v1/trainer_service.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace catalog = atelier::catalog::v1;
namespace trainer = atelier::trainer::v1;
namespace generator = atelier::generator::v1;
namespace fs = std::filesystem;

constexpr std::size_t kChunkBytes = 256 * 1024;
constexpr int kMaxMessageBytes = 64 * 1024 * 1024;  // a picture and what it takes to draw one fit well into this
constexpr int kMaxFailures = 10;

/// Whether a stream was cut, here or between the gateway and a service that is started again.
bool WasCut(const grpc::Status& status) {
  const auto code = status.error_code();
  return code == grpc::UNAVAILABLE || code == grpc::INTERNAL || code == grpc::CANCELLED || code == grpc::UNKNOWN;
}

std::string Setting(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value ? value : otherwise;
}

/// A version 4 UUID: the same request sent again under it is not done twice.
std::string RequestId() {
  static std::mt19937_64 random{std::random_device{}()};
  std::string id = "xxxxxxxx-xxxx-4xxx-8xxx-xxxxxxxxxxxx";
  for (char& letter : id)
    if (letter == 'x') letter = "0123456789abcdef"[random() % 16];
  return id;
}

/// Throws what the server says of an error: the fields that broke a rule, from its details, or its sentence.
void Check(const grpc::Status& status) {
  if (status.ok()) return;
  std::string fields;
  google::rpc::Status rich;
  rich.ParseFromString(status.error_details());
  for (const auto& detail : rich.details()) {
    google::rpc::BadRequest bad;
    if (!detail.Is<google::rpc::BadRequest>() || !detail.UnpackTo(&bad)) continue;
    for (const auto& each : bad.field_violations())
      fields += (fields.empty() ? "" : "; ") + each.field() + " " + each.description();
  }
  throw std::runtime_error(fields.empty() ? status.error_message() : fields);
}

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Studio {
 public:
  explicit Studio(const std::string& address) {
    grpc::ChannelArguments options;
    options.SetMaxReceiveMessageSize(kMaxMessageBytes);
    auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), options);
    catalog_ = catalog::CatalogService::NewStub(channel);
    trainer_ = trainer::TrainerService::NewStub(channel);
    generator_ = generator::GeneratorService::NewStub(channel);
  }

  int CreateDataset(const std::string& name) {
    grpc::ClientContext context;
    catalog::CreateDatasetRequest request;
    catalog::CreateDatasetResponse answer;
    request.set_request_id(RequestId());
    request.set_name(name);
    Check(catalog_->CreateDataset(&context, request, &answer));
    return answer.dataset().id();
  }

  /// Streams all pictures of a folder, each with the caption that lies beside it.
  catalog::UploadImagesResponse Upload(int dataset_id, const fs::path& folder) {
    grpc::ClientContext context;
    catalog::UploadImagesResponse answer;
    auto stream = catalog_->UploadImages(&context, &answer);
    catalog::UploadImagesRequest start;
    start.mutable_start()->set_dataset_id(dataset_id);
    bool open = stream->Write(start);
    for (const fs::path& path : Pictures(folder)) open = open && Send(*stream, path);
    stream->WritesDone();
    Check(stream->Finish());  // it also says why a stream was closed early
    return answer;
  }

  int FindModel(const std::string& name) {
    grpc::ClientContext context;
    catalog::ListModelsRequest request;
    catalog::ListModelsResponse answer;
    request.set_page_size(1000);
    Check(catalog_->ListModels(&context, request, &answer));
    for (const auto& model : answer.models())
      if (model.name() == name) return model.id();
    throw std::runtime_error("there is no model " + name);
  }

  std::string Train(int dataset_id, int base_model_id, int steps, int rank) {
    grpc::ClientContext context;
    trainer::CreateTrainingJobRequest request;
    trainer::CreateTrainingJobResponse answer;
    request.set_request_id(RequestId());
    request.set_dataset_id(dataset_id);
    request.set_base_model_id(base_model_id);
    request.set_method(trainer::TRAINING_METHOD_LORA);
    request.mutable_config()->set_max_steps(steps);
    request.mutable_config()->mutable_lora()->set_rank(rank);
    request.set_start(true);
    Check(trainer_->CreateTrainingJob(&context, request, &answer));
    return answer.job().id();
  }

  /// Shows every event of a job until it ends, and gives its model. A stream that is cut is taken up again after the
  /// last event seen.
  trainer::DoneEvent Watch(const std::string& job_id) {
    trainer::WatchTrainingJobRequest request;
    request.set_job_id(job_id);
    for (int failures = 0;;) {
      grpc::ClientContext context;
      trainer::WatchTrainingJobResponse answer;
      auto stream = trainer_->WatchTrainingJob(&context, request);
      while (stream->Read(&answer)) {
        const trainer::TrainingEvent& event = answer.event();
        failures = 0;
        if (event.has_heartbeat()) continue;
        request.set_after_sequence(event.sequence());
        if (event.has_step())
          std::cout << "step " << event.step().step() << "/" << event.step().total_steps() << ", loss "
                    << event.step().smoothed_loss() << std::endl;
        if (event.has_done()) return event.done();
        if (event.has_failed()) throw std::runtime_error("the job failed: " + event.failed().message());
        if (event.has_cancelled()) throw std::runtime_error("the job was cancelled");
      }
      grpc::Status status = stream->Finish();
      if (!WasCut(status) || ++failures > kMaxFailures) Check(status);
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
    }
  }

  void Draw(int model_id, const std::string& prompt, const fs::path& picture) {
    grpc::ClientContext context;
    generator::GenerateRequest request;
    generator::GenerateResponse answer;
    request.set_request_id(RequestId());
    request.mutable_settings()->set_model_id(model_id);
    request.mutable_settings()->set_prompt(prompt);
    auto stream = generator_->Generate(&context, request);
    while (stream->Read(&answer)) {
      if (answer.has_step())
        std::cout << "drawing, step " << answer.step().step() << "/" << answer.step().total_steps() << std::endl;
      if (answer.has_image() && !(std::ofstream(picture, std::ios::binary) << answer.image().data() << std::flush))
        throw std::runtime_error("cannot write " + picture.string());
    }
    Check(stream->Finish());
  }

 private:
  static std::vector<fs::path> Pictures(const fs::path& folder) {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string ending = entry.path().extension().string();
      if (ending == ".png" || ending == ".jpg" || ending == ".jpeg" || ending == ".webp") found.push_back(entry.path());
    }
    std::sort(found.begin(), found.end());
    return found;
  }

  static bool Send(grpc::ClientWriter<catalog::UploadImagesRequest>& stream, const fs::path& path) {
    catalog::UploadImagesRequest part;
    part.mutable_file()->set_filename(path.filename().string());
    std::string caption = ReadAll(fs::path(path).replace_extension(".txt"));
    while (!caption.empty() && std::isspace(static_cast<unsigned char>(caption.back()))) caption.pop_back();
    part.mutable_file()->set_caption(caption);
    if (!stream.Write(part)) return false;
    const std::string data = ReadAll(path);
    for (std::size_t offset = 0; offset < data.size(); offset += kChunkBytes) {
      part.mutable_chunk()->set_offset(static_cast<std::int64_t>(offset));
      part.mutable_chunk()->set_data(data.substr(offset, kChunkBytes));
      if (!stream.Write(part)) return false;
    }
    return true;
  }

  std::unique_ptr<catalog::CatalogService::Stub> catalog_;
  std::unique_ptr<trainer::TrainerService::Stub> trainer_;
  std::unique_ptr<generator::GeneratorService::Stub> generator_;
};

int main(int count, char** arguments) try {
  if (count < 3) throw std::invalid_argument("usage: atelier FOLDER PICTURE.png [PROMPT]");
  const std::string prompt = count > 3 ? arguments[3] : "red apple";
  Studio studio(Setting("ATELIER_ADDRESS", "127.0.0.1:8080"));

  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  const int dataset_id = studio.CreateDataset("from C++ " + std::to_string(now));
  const auto uploaded = studio.Upload(dataset_id, arguments[1]);
  for (const auto& file : uploaded.refused())
    std::cout << "refused: " << file.filename() << ": " << file.message() << std::endl;
  std::cout << uploaded.accepted_size() << " pictures in dataset " << dataset_id << std::endl;

  const int base = studio.FindModel(Setting("ATELIER_BASE_MODEL", "Atelier Starter"));
  const int steps = std::stoi(Setting("ATELIER_STEPS", "100")), rank = std::stoi(Setting("ATELIER_RANK", "4"));
  const trainer::DoneEvent model = studio.Watch(studio.Train(dataset_id, base, steps, rank));
  std::cout << "model " << model.model_id() << " " << model.model_name() << std::endl;

  studio.Draw(model.model_id(), prompt, arguments[2]);
  std::cout << arguments[2] << " is drawn" << std::endl;
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << std::endl;
  return 1;
}
