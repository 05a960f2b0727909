ExUnit.start()

ExUnit.after_suite(fn _ ->
  # The engine lets go of its folder before that is removed.
  Application.stop(:engine)
  File.rm_rf!(Application.get_env(:engine, Sango)[:data_dir])
end)
