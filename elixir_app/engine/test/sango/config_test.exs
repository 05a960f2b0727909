defmodule Sango.ConfigTest do
  use ExUnit.Case, async: true

  alias Sango.Config

  @valid [models_dir: "m", data_dir: "d"]

  test "defaults are filled in, and folders are absolute" do
    config = Config.new!(@valid)

    assert %{name: Sango, workers: 1, max_unfinished: 256, max_per_client: :infinity, max_attempts: 3} =
             config

    assert config.models_dir == Path.expand("m")
    refute Map.has_key?(Config.backend_options(config), :max_per_client)
  end

  test "each mistake is named" do
    for {options, part} <- [
          {[data_dir: "d"], "option :models_dir is missing"},
          {[models_dir: "m"], "option :data_dir is missing"},
          {@valid ++ [worker: 2], "there is no option :worker; there are: "},
          {@valid ++ [workers: 65], "option :workers is 65: give a whole number from 0 to 64"},
          {@valid ++ [nice: 1.5], "option :nice is 1.5"},
          {@valid ++ [max_per_client: 0], "option :max_per_client is 0"},
          {@valid ++ [name: "x"], "option :name is \"x\""},
          {@valid ++ [name: nil], "option :name is nil"},
          {[models_dir: ~c"m", data_dir: "d"], "option :models_dir is"},
          {[models_dir: <<255>>, data_dir: "d"], "option :models_dir is <<255>>"},
          {:nonsense, "options must be a keyword list"}
        ] do
      error = assert_raise ArgumentError, fn -> Config.new!(options) end
      assert error.message =~ part
    end
  end
end
