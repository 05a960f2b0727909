defmodule SangoWeb.EnvironmentTest do
  use ExUnit.Case, async: true

  alias SangoWeb.Environment

  @secret String.duplicate("s", 64)

  test "a development machine needs nothing" do
    %{engine: engine, endpoint: endpoint, web: web} = Environment.read!(%{}, :dev)
    assert endpoint[:http] == [ip: {127, 0, 0, 1}, port: 4000]
    assert {endpoint[:server], endpoint[:secret_key_base], web[:allowed_origins]} == {nil, nil, []}
    assert File.dir?(engine[:models_dir])
    assert %Sango.Config{threads: 0, max_unfinished: 256} = Sango.config!(engine)
  end

  test "everything can be said" do
    variables = %{
      "PORT" => "8080",
      "SANGO_LISTEN" => "::",
      "PHX_HOST" => "studio.example",
      "PHX_SERVER" => "true",
      "SECRET_KEY_BASE" => @secret,
      "SANGO_ALLOWED_ORIGINS" => "https://a.example, http://b.example:8080",
      "SANGO_MODELS" => "/models",
      "SANGO_DATA" => "/data",
      "SANGO_THREADS" => "3",
      "SANGO_WORKERS" => "2",
      "SANGO_MAX_UNFINISHED" => "99",
      "SANGO_MAX_PER_CLIENT" => "9",
      "SANGO_KEEP_JOBS" => "5",
      "HOME" => "/home/sango"
    }

    %{engine: engine, endpoint: endpoint, web: web} = Environment.read!(variables, :prod)
    assert endpoint[:http] == [ip: {0, 0, 0, 0, 0, 0, 0, 0}, port: 8080]
    assert {endpoint[:server], endpoint[:secret_key_base]} == {true, @secret}
    assert endpoint[:url][:host] == "studio.example"
    assert web[:allowed_origins] == ["https://a.example", "http://b.example:8080"]

    assert Enum.sort(engine) == [
             data_dir: "/data",
             keep_jobs: 5,
             max_per_client: 9,
             max_unfinished: 99,
             models_dir: "/models",
             threads: 3,
             workers: 2
           ]
  end

  test "a release needs a secret, and is told how to make one" do
    assert_raise RuntimeError, ~r/SECRET_KEY_BASE is not set.*openssl rand/, fn ->
      Environment.read!(%{"SECRET_KEY_BASE" => ""}, :prod)
    end

    assert_raise RuntimeError, ~r/SECRET_KEY_BASE has 5 bytes/, fn ->
      Environment.read!(%{"SECRET_KEY_BASE" => "short"}, :prod)
    end
  end

  test "what cannot be used is named" do
    for {name, value} <- [
          {"PORT", "http"},
          {"PORT", "-1"},
          {"PORT", "70000"},
          {"SANGO_LISTEN", "localhost"},
          {"SANGO_THREADS", "all"},
          {"SANGO_ALLOWED_ORIGINS", "studio.example"},
          {"SANGO_ALLOWED_ORIGINS", "https://studio.example/path"}
        ] do
      assert_raise RuntimeError, ~r/^#{name} /, fn -> Environment.read!(%{name => value}, :dev) end
    end
  end
end
