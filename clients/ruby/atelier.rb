#!/usr/bin/env ruby
# frozen_string_literal: true

# Pictures in, a trained model out, a picture from it: over gRPC through the gateway's one port.
# Usage: ruby atelier.rb FOLDER PICTURE.png [PROMPT]     (settings: see README.md)
Encoding.default_external = Encoding::UTF_8 # names and captions, whatever the locale

require 'grpc'
require 'securerandom'

$LOAD_PATH.unshift(ENV.fetch('ATELIER_RUBY_GEN', File.join(__dir__, 'gen')))
require 'atelier/catalog/v1/catalog_service_services_pb'
require 'atelier/trainer/v1/trainer_service_services_pb'
require 'atelier/generator/v1/generator_service_services_pb'
require 'google/rpc/error_details_pb'
require 'google/rpc/status_pb'

Catalog = Atelier::Catalog::V1
Trainer = Atelier::Trainer::V1
Generator = Atelier::Generator::V1

ADDRESS = ENV.fetch('ATELIER_ADDRESS', '127.0.0.1:8080')
BASE_MODEL = ENV.fetch('ATELIER_BASE_MODEL', 'Atelier Starter')
STEPS = Integer(ENV.fetch('ATELIER_STEPS', '100'))
RANK = Integer(ENV.fetch('ATELIER_RANK', '4'))
CHUNK_BYTES = 256 * 1024
# How a stream ends that was cut, here or between the gateway and a service that is started again.
CUT = [GRPC::Unavailable, GRPC::Internal, GRPC::Cancelled, GRPC::Unknown].freeze
PICTURES = %w[.png .jpg .jpeg .webp].freeze

# One person's session: the three services behind one address.
class Studio
  def initialize(address)
    # A picture and what it takes to draw one fit well into this.
    options = { channel_args: { 'grpc.max_receive_message_length' => 64 * 1024 * 1024 } }
    stub = ->(service) { service::Stub.new(address, :this_channel_is_insecure, **options) }
    @catalog = stub.call(Catalog::CatalogService)
    @trainer = stub.call(Trainer::TrainerService)
    @generator = stub.call(Generator::GeneratorService)
  end

  def create_dataset(name)
    @catalog.create_dataset(Catalog::CreateDatasetRequest.new(request_id: SecureRandom.uuid, name: name)).dataset
  end

  # Streams all pictures of a folder, each with the caption that lies beside it.
  def upload(dataset, folder)
    files = Dir.children(folder).select { |name| PICTURES.include?(File.extname(name).downcase) }.sort
    parts = Enumerator.new do |stream|
      stream << Catalog::UploadImagesRequest.new(start: Catalog::UploadStart.new(dataset_id: dataset.id))
      files.each { |name| send_file(stream, File.join(folder, name)) }
    end
    @catalog.upload_images(parts)
  end

  def find_model(name)
    models = @catalog.list_models(Catalog::ListModelsRequest.new(page_size: 1000)).models
    models.find { |model| model.name == name } or raise ArgumentError, "there is no model #{name}"
  end

  def train(dataset, base, steps:, rank:)
    config = Trainer::TrainingConfig.new(max_steps: steps, lora: Trainer::LoraConfig.new(rank: rank))
    request = Trainer::CreateTrainingJobRequest.new(
      request_id: SecureRandom.uuid, dataset_id: dataset.id, base_model_id: base.id,
      method: :TRAINING_METHOD_LORA, config: config, start: true
    )
    @trainer.create_training_job(request).job
  end

  # Yields every event of a job until it ends. A stream that is cut is taken up again after the last event seen.
  def watch(job)
    after = failures = 0
    loop do
      request = Trainer::WatchTrainingJobRequest.new(job_id: job.id, after_sequence: after)
      @trainer.watch_training_job(request).each do |answer|
        failures = 0
        next if answer.event.event == :heartbeat

        after = answer.event.sequence
        yield answer.event
        return nil if %i[done failed cancelled].include?(answer.event.event)
      end
    rescue *CUT
      raise if (failures += 1) > 10

      sleep 0.5
    end
  end

  def draw(model_id, prompt, &on_answer)
    settings = Generator::GenerationSettings.new(model_id: model_id, prompt: prompt)
    @generator.generate(Generator::GenerateRequest.new(request_id: SecureRandom.uuid, settings: settings)).each(&on_answer)
  end

  private

  def send_file(stream, path)
    beside = path.delete_suffix(File.extname(path)) + '.txt'
    caption = File.exist?(beside) ? File.read(beside).strip : ''
    file = Catalog::UploadFile.new(filename: File.basename(path), caption: caption)
    stream << Catalog::UploadImagesRequest.new(file: file)
    File.open(path, 'rb') do |input|
      offset = 0
      while (data = input.read(CHUNK_BYTES))
        stream << Catalog::UploadImagesRequest.new(chunk: Catalog::UploadChunk.new(offset: offset, data: data))
        offset += data.bytesize
      end
    end
  end
end

def learn(studio, folder)
  dataset = studio.create_dataset("from Ruby #{Time.now.to_f}")
  uploaded = studio.upload(dataset, folder)
  uploaded.refused.each { |file| puts "refused: #{file.filename}: #{file.message}" }
  puts "#{uploaded.accepted.size} pictures in dataset #{dataset.id}"
  job = studio.train(dataset, studio.find_model(BASE_MODEL), steps: STEPS, rank: RANK)
  studio.watch(job) do |event|
    case event.event
    when :step then puts format('step %d/%d, loss %.4f', event.step.step, event.step.total_steps, event.step.smoothed_loss)
    when :done then return event.done
    when :failed then raise "the job failed: #{event.failed.message}"
    when :cancelled then raise 'the job was cancelled'
    end
  end
end

# What the server says of an error: the fields that broke a rule, from its details, or its sentence.
def explain(error)
  return error.message unless error.is_a?(GRPC::BadStatus)

  bytes = error.metadata['grpc-status-details-bin'] or return error.details
  details = Google::Rpc::Status.decode(bytes).details
  fields = details.select { |any| any.type_url.end_with?('google.rpc.BadRequest') }
                  .flat_map { |any| Google::Rpc::BadRequest.decode(any.value).field_violations.to_a }
  fields.empty? ? error.details : fields.map { |field| "#{field.field} #{field.description}" }.join('; ')
end

begin
  folder, picture, prompt = ARGV
  raise ArgumentError, 'usage: ruby atelier.rb FOLDER PICTURE.png [PROMPT]' unless picture

  $stdout.sync = true
  studio = Studio.new(ADDRESS)
  model = learn(studio, folder)
  puts "model #{model.model_id} #{model.model_name}"
  studio.draw(model.model_id, prompt || 'red apple') do |answer|
    case answer.event
    when :step then puts "drawing, step #{answer.step.step}/#{answer.step.total_steps}"
    when :image then File.binwrite(picture, answer.image.data)
    end
  end
  puts "#{picture} is drawn"
rescue StandardError => e
  warn "error: #{explain(e)}"
  exit 1
end
